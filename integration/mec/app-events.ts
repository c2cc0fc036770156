import type { Response } from 'express'
import { type Log, ShoalError } from '../../base/index.ts'
import type { PeerId } from '../../manager/index.ts'
import type { Offload } from '../offload/types.ts'
import { appView } from './app-body.ts'
import type { Forwarder } from './forward.ts'
import type { Device } from './types.ts'

const HEARTBEAT_MS = 15e3
/** A node that watches says so again well before this is over; what it missed meanwhile it learns then. */
const WATCH_MS = 45e3
const GONE_MS = 500
const MAX_READERS = 1024
const MAX_PER_UE = 16
const MAX_UNREAD = 64 * 1024

/** What becomes of an application, as server-sent events: to readers here, and to nodes at which other readers are. */
export interface AppEvents {
  /** @throws NOT_FOUND | USAGE with status 429 | PEER_GONE */
  attach(res: Response, device: Device, id: string): Promise<void>
  /** Another node has a reader. Resolves to the application as it is; undefined: there is none. */
  watchedBy(peer: PeerId, ue: string, id: string): Promise<unknown>
  /** A home tells of what is watched here. */
  told(event: { ue: string; id: string; app: unknown }): void
  close(): void
}

interface Reader {
  res: Response
  device: Device
  id: string
  /** The last that was sent, so that nothing is said twice. */
  last: string
}

export function createAppEvents({
  offload,
  self,
  forwarder,
  contextId,
  log,
  now = Date.now,
}: {
  offload: Offload
  self: PeerId
  forwarder: Pick<Forwarder, 'watch' | 'tell'>
  contextId: (appId: string) => string | undefined
  log: Log
  now?: () => number
}): AppEvents {
  const readers = new Set<Reader>()
  /** Until when which nodes watch an application. */
  const watching = new Map<string, Map<PeerId, number>>()
  let heartbeat: NodeJS.Timeout | undefined

  function write(reader: Reader, text: string): void {
    reader.res.write(text)
    if (reader.res.writableLength > MAX_UNREAD) {
      log.warn({ ue: reader.device.ue }, "a reader of an application's events is too slow and was dropped")
      reader.res.destroy()
    }
  }

  function show(reader: Reader, app: unknown): void {
    const text = JSON.stringify(app ?? null)
    if (text === reader.last) return
    reader.last = text
    if (app === undefined || app === null) {
      write(reader, `event: deleted\ndata: ${JSON.stringify({ id: reader.id })}\n\n`)
      reader.res.end()
    } else write(reader, `event: app\ndata: ${text}\n\n`)
  }

  async function asIs(device: Device, id: string): Promise<unknown> {
    if (device.home !== self) return forwarder.watch(device.home, device.ue, id)
    const app = await offload.get(device.ue, id)
    return app && appView(app, contextId(id))
  }

  async function beat(): Promise<void> {
    for (const reader of readers) write(reader, ': still here\n\n')
    for (const reader of readers) {
      const { device, id } = reader
      const app = await asIs(device, id).catch((error) => {
        log.debug({ err: error, app: id }, 'it is not known what became of the application')
        return reader
      })
      // Its home is away: it says more when it is back.
      if (app !== reader && readers.has(reader)) show(reader, app)
    }
  }

  const stop = offload.onChange((app) => {
    const shown = appView(app, contextId(app.id))
    for (const reader of readers) {
      if (reader.id === app.id && reader.device.ue === app.owner && reader.device.home === self) {
        show(reader, shown)
        if (app.state === 'deleting') untilGone(reader)
      }
    }
    forgetIdle()
    for (const peer of watching.get(app.id)?.keys() ?? []) {
      forwarder.tell(peer, { ue: app.owner, id: app.id, app: shown })
    }
  })

  function forgetIdle(): void {
    for (const [id, peers] of watching) {
      for (const [peer, until] of peers) if (until < now()) peers.delete(peer)
      if (peers.size === 0) watching.delete(id)
    }
  }

  /** Nobody says that an application is gone: who saw it going looks. */
  function untilGone(reader: Reader): void {
    setTimeout(async () => {
      if (!readers.has(reader)) return
      const app = await asIs(reader.device, reader.id).catch(() => reader)
      if (app === undefined) show(reader, undefined)
      else untilGone(reader)
    }, GONE_MS)
  }

  return {
    async attach(res, device, id) {
      const mine = [...readers].filter((reader) => reader.device.ue === device.ue).length
      if (readers.size >= MAX_READERS || mine >= MAX_PER_UE) {
        throw new ShoalError('USAGE', 'too many readers follow events already', { details: { status: 429 } })
      }
      const app = await asIs(device, id)
      if (app === undefined)
        throw new ShoalError('NOT_FOUND', `this device has no application ${id.slice(0, 64)}`)
      if (res.destroyed) return
      res.status(200).set({ 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' })
      res.flushHeaders()
      const reader: Reader = { res, device, id, last: '' }
      readers.add(reader)
      if (readers.size === 1) heartbeat = setInterval(() => void beat(), HEARTBEAT_MS)
      res.on('error', () => res.destroy())
      res.on('close', () => {
        readers.delete(reader)
        if (readers.size === 0) clearInterval(heartbeat)
      })
      show(reader, app)
    },
    async watchedBy(peer, ue, id) {
      const app = await offload.get(ue, id)
      if (!app) return undefined
      forgetIdle()
      const peers = watching.get(id) ?? new Map<PeerId, number>()
      peers.set(peer, now() + WATCH_MS)
      if (watching.size < MAX_READERS || watching.has(id)) watching.set(id, peers)
      return appView(app, contextId(id))
    },
    told({ ue, id, app }) {
      for (const reader of readers) {
        if (reader.id !== id || reader.device.ue !== ue || reader.device.home === self) continue
        show(reader, app)
        if ((app as { state?: unknown } | null)?.state === 'deleting') untilGone(reader)
      }
    },
    close() {
      stop()
      clearInterval(heartbeat)
      for (const { res } of readers) res.end()
      readers.clear()
    },
  }
}
