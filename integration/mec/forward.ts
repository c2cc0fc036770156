import { type Log, ShoalError } from '../../base/index.ts'
import type { Membership, PeerId, Rpc } from '../../manager/index.ts'
import type { Call, Reply } from './types.ts'

/** A node answers 64 requests of a peer at a time; those of devices shall leave room for the others. */
const AT_ONCE = 40
const MAX_WAITING = 2000
/** A context without a callback is answered when it runs, an application is gone when it is answered. */
const PATIENCE_MS = 120e3

const METHOD = 'mec/call'
const WATCH = 'mec/watch'
const EVENT = 'mec/event'

/** Requests of devices from the node that they came in at to the device's home, in JSON: what a peer sends is one string. */
export interface Forwarder {
  forward(home: PeerId, call: Call, signal: AbortSignal): Promise<Reply>
  /** Has the home tell this node of what becomes of an application for a while; resolves to it as it is, undefined: there is none. */
  watch(home: PeerId, ue: string, id: string): Promise<unknown>
  /** Tells a node that watches. */
  tell(peer: PeerId, event: { ue: string; id: string; app: unknown }): void
}

function textOf(body: unknown): string {
  if (typeof body !== 'string') throw new ShoalError('PROTOCOL', 'the body is no text')
  return body
}

export function createForwarder({
  rpc,
  members,
  handle,
  onWatch,
  onTold,
  log,
}: {
  rpc: Rpc
  members: Membership
  /** A call of another node's. */
  handle: (call: Call) => Promise<Reply>
  onWatch: (peer: PeerId, ue: string, id: string) => Promise<unknown>
  onTold: (event: { ue: string; id: string; app: unknown }) => void
  log: Log
}): Forwarder {
  const waiting: (() => void)[] = []
  let atOnce = 0

  rpc.handle(METHOD, async (_peer, body) => JSON.stringify(await handle(JSON.parse(textOf(body)) as Call)))
  rpc.handle(WATCH, async (peer, body) => {
    const { ue, id } = JSON.parse(textOf(body)) as { ue: string; id: string }
    return JSON.stringify((await onWatch(peer, String(ue), String(id))) ?? null)
  })
  rpc.handle(EVENT, async (_peer, body) => {
    onTold(JSON.parse(textOf(body)) as { ue: string; id: string; app: unknown })
    return null
  })

  async function turn(): Promise<void> {
    if (atOnce < AT_ONCE) {
      atOnce++
      return
    }
    if (waiting.length >= MAX_WAITING) throw new ShoalError('BUSY', 'too many requests are under way')
    await new Promise<void>((resolve) => waiting.push(resolve))
  }

  function done(): void {
    const next = waiting.shift()
    if (next) next()
    else atOnce--
  }

  async function ask(home: PeerId, method: string, body: unknown, signal?: AbortSignal): Promise<unknown> {
    await turn()
    try {
      const answer = await rpc.request(home, method, JSON.stringify(body), {
        timeoutMs: PATIENCE_MS,
        ...(signal ? { signal } : {}),
      })
      return JSON.parse(textOf(answer))
    } catch (cause) {
      const name = members.find(home)?.name ?? home
      log.warn({ home, err: cause }, "a device's request could not be handed on")
      throw new ShoalError('PEER_GONE', `node ${name}, which keeps what this device has, is away`, { cause })
    } finally {
      done()
    }
  }

  return {
    forward: async (home, call, signal) => (await ask(home, METHOD, call, signal)) as Reply,
    watch: async (home, ue, id) => (await ask(home, WATCH, { ue, id })) ?? undefined,
    tell: (peer, event) => rpc.notify(peer, EVENT, JSON.stringify(event)),
  }
}
