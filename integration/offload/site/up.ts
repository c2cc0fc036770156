import { setTimeout as sleep } from 'node:timers/promises'
import { isShoalError, type Log, ShoalError } from '../../../base/index.ts'
import type { Membership, PeerId } from '../../../manager/index.ts'
import { checkApp } from '../checks.ts'
import { fields, list, maybe, text } from '../messages.ts'
import type { Talk } from '../talk.ts'
import type { App, AppSpec, Offload, Whereabouts } from '../types.ts'
import type { AppRecord, Apps } from './apps.ts'

const ORDER_MS = 15e3
const REMOVE_MS = 60e3
const RETRY_MS = 2000
/** Managers that may ask on behalf of one another in a row. */
const MAX_HOPS = 4

/**
 * The next manager up: where nothing fits on this site, it is asked, and runs the application as its own for the UE. It is a node of the
 * same cluster, so that the cluster's key admits it and its answers come over the same connections as everything else.
 */
export interface Up {
  offload(record: AppRecord, where: Whereabouts): Promise<{ given: boolean; reasons: string[] }>
  available(spec: AppSpec, where: Whereabouts): Promise<{ fits: boolean; reasons: string[]; nodes: PeerId[] }>
  /** Resolves when nothing is left of it there. */
  remove(record: AppRecord, signal: AbortSignal): Promise<void>
  /** Tells the manager further down that asked for it. */
  tellDown(record: AppRecord, app: App): void
  /** Asks the next manager what becomes of what it was given. */
  poll(): Promise<void>
}

type Own = Pick<Offload, 'register' | 'offload' | 'get' | 'delete' | 'available'>

export function createUp(deps: {
  talk: Talk
  members: Membership
  apps: Apps
  next: string | undefined
  own: Own
  shown: (record: AppRecord) => App
  /** It is to be placed here after all. */
  kick: (id: string) => void
  log: Log
}): Up {
  const { talk, members, apps, next, own, log } = deps

  function above(): { peer: PeerId; name: string } | undefined {
    if (next === undefined) return undefined
    const member = members.find(next)
    if (member === undefined || member.id === talk.self) return undefined
    return { peer: member.id, name: `${member.name} (${member.site})` }
  }

  function none(): string[] {
    return next === undefined ? [] : [`the next manager, ${next}, is not known in the cluster`]
  }

  // An application that came from below goes further up by the same rules; the ID stays, so that asking twice makes one of it.
  talk.handle('up.offload', async (peer, body) => {
    const f = fields(body)
    const hops = Number(f.hops) || 0
    if (hops >= MAX_HOPS) throw new ShoalError('UNFIT', 'too many managers have asked one another')
    const id = text(f.id, 32)
    const owner = text(f.owner, 256)
    await own.register(owner, checkApp(f.spec), { id })
    const record = apps.get(id)!
    record.down = { peer, id }
    await apps.save(record)
    try {
      return await own.offload(owner, id, { ...whereabouts(f.where) })
    } catch (error) {
      await own.delete(owner, id, AbortSignal.timeout(REMOVE_MS))
      throw error
    }
  })
  talk.handle('up.available', async (_peer, body) => {
    const f = fields(body)
    if ((Number(f.hops) || 0) >= MAX_HOPS) return { fits: false, reasons: [], nodes: [] }
    return own.available(checkApp(f.spec), whereabouts(f.where))
  })
  talk.handle('up.get', async (_peer, body) => {
    const f = fields(body)
    return own.get(text(f.owner, 256), text(f.id, 32))
  })
  talk.handle('up.delete', async (_peer, body, signal) => {
    const f = fields(body)
    return own.delete(text(f.owner, 256), text(f.id, 32), signal)
  })
  talk.handle('up.changed', async (peer, body) => {
    await take(peer, fields(body) as unknown as App)
    return undefined
  })

  async function take(peer: PeerId, app: App): Promise<void> {
    const record = [...apps.all()].find(({ up }) => up?.peer === peer && up.id === app.id)
    if (record?.up === undefined) return
    if (JSON.stringify(record.up.app) === JSON.stringify(app)) return
    record.up.app = app
    await apps.save(record)
  }

  function whereabouts(value: unknown): Whereabouts {
    const where = maybe(value, fields) ?? {}
    const entry = maybe(where.entry, (each) => text(each, 128))
    const within = maybe(where.within, (each) => list(each, (peer) => text(peer, 128)))
    return { ...(entry === undefined ? {} : { entry }), ...(within === undefined ? {} : { within }) }
  }

  /** The next manager does not know of it: it has lost it, or never got it. */
  async function again(record: AppRecord): Promise<void> {
    const { entry, within } = record
    const where = { ...(entry === undefined ? {} : { entry }), ...(within === undefined ? {} : { within }) }
    const { given, reasons } = await offload(record, where)
    if (record.wanted !== 'running') return
    if (!given) record.trouble = 'nothing fits it now'
    record.reasons = reasons
    await apps.save(record)
    if (!given) deps.kick(record.id)
  }

  async function remove({ up, owner }: AppRecord, signal: AbortSignal): Promise<void> {
    if (up === undefined) return
    for (;;) {
      try {
        await talk.ask(up.peer, 'up.delete', { owner, id: up.id }, { signal, timeoutMs: REMOVE_MS })
        return
      } catch (error) {
        if (signal.aborted) throw error
        // Who left for good has taken it along.
        if (members.find(up.peer)?.state === 'left') return
        log.warn({ err: error, peer: up.peer }, 'the next manager does not remove an application yet')
        await sleep(RETRY_MS, undefined, { signal })
      }
    }
  }

  async function offload(
    record: AppRecord,
    where: Whereabouts,
  ): Promise<{ given: boolean; reasons: string[] }> {
    const to = above()
    if (to === undefined || record.down?.peer === to.peer) return { given: false, reasons: none() }
    record.up = { peer: to.peer, id: record.id }
    // Written down first: what a crash leaves there is found and removed by it.
    await apps.save(record)
    const { id, owner, spec } = record
    try {
      const hops = record.down === undefined ? 0 : 1
      const app = await talk.ask(
        to.peer,
        'up.offload',
        { id, owner, spec, where, hops },
        { timeoutMs: ORDER_MS },
      )
      record.up.app = app as App
      return { given: true, reasons: [`nothing fits here: ${to.name} was asked and took it`] }
    } catch (error) {
      const lost = isShoalError(error, 'TIMEOUT', 'PEER_GONE')
      if (lost) await remove(record, AbortSignal.timeout(ORDER_MS)).catch(() => {})
      delete record.up
      const { details, message } = error as ShoalError
      const said = Array.isArray(details?.reasons) ? (details.reasons as string[]) : []
      return { given: false, reasons: [`${to.name} was asked, too: ${message}`, ...said] }
    }
  }

  return {
    offload,
    remove,

    async available(spec, where) {
      const to = above()
      if (to === undefined) return { fits: false, reasons: none(), nodes: [] }
      try {
        const answer = fields(
          await talk.ask(to.peer, 'up.available', { spec, where, hops: 1 }, { timeoutMs: ORDER_MS }),
        )
        const reasons = list(answer.reasons, (line) => text(line, 4096))
        const nodes = list(answer.nodes, (peer) => text(peer, 128))
        const fits = answer.fits === true
        return {
          fits,
          nodes,
          reasons: [`${to.name} was asked: it ${fits ? 'fits' : 'does not fit'} there`, ...reasons],
        }
      } catch (error) {
        return { fits: false, nodes: [], reasons: [`${to.name} was asked: ${(error as Error).message}`] }
      }
    },

    tellDown({ down }, app) {
      if (down === undefined) return
      talk.ask(down.peer, 'up.changed', app, { timeoutMs: ORDER_MS }).catch((error) => {
        log.debug({ err: error }, 'a manager further down does not hear of a change')
      })
    },

    async poll() {
      const given = [...apps.all()].filter(({ wanted, up }) => wanted === 'running' && up !== undefined)
      for (const record of given) {
        const { owner, up } = record
        try {
          const app = await talk.ask(up!.peer, 'up.get', { owner, id: up!.id }, { timeoutMs: ORDER_MS })
          if (app !== undefined && app !== null) await take(up!.peer, app as App)
          else await again(record)
        } catch (error) {
          log.debug({ err: error }, 'the next manager does not answer')
        }
      }
    },
  }
}
