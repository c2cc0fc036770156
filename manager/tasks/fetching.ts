import { isShoalError, type Log } from '../../base/index.ts'
import type { Action, FetchFailure, PeerId, Planner, Priority } from '../../scheduler/index.ts'
import type { Exchange } from '../types.ts'
import type { Blocks } from './blocks.ts'
import type { BufferPool } from './buffers.ts'

/** Without a byte for so long, a block under way is given up; the planner has asked another holder long before. */
const STALL_MS = 4000

/** Carries out the planner's choices: asks peers for blocks, checks and stores what comes. */
export interface Fetching {
  /** Lets the planner look again, soon. */
  pump(): void
  stop(): Promise<void>
}

export function createFetching(deps: {
  blocks: Blocks
  planner: Planner
  exchange: Exchange
  pool: BufferPool
  priority: () => Priority
  onBlock: (index: number, bytes: Uint8Array, peer: PeerId) => void
  onFull: () => void
  /** Where a block goes that the disk has no room for; false when nobody would read it there. */
  keep: (index: number, bytes: Uint8Array) => boolean
  log: Log
}): Fetching {
  const { blocks, planner, exchange, pool, log } = deps
  const underway = new Map<string, { abort: AbortController; finished: Promise<void> }>()
  let scheduled = false
  let stopped = false
  let timer: NodeJS.Timeout | undefined

  const keyOf = (index: number, peer: PeerId): string => `${index} ${peer}`

  function pump(): void {
    if (scheduled || stopped) return
    scheduled = true
    setImmediate(turn)
  }

  function turn(): void {
    scheduled = false
    if (stopped) return
    perform(planner.next(performance.now()))
    clearTimeout(timer)
    const at = planner.wakeAt(performance.now())
    if (at !== undefined) timer = setTimeout(pump, Math.max(5, at - performance.now()))
  }

  function perform(actions: readonly Action[]): void {
    for (const action of actions) {
      const key = keyOf(action.index, action.peer)
      if (action.type === 'cancel') {
        underway.get(key)?.abort.abort()
        continue
      }
      const abort = new AbortController()
      underway.set(key, { abort, finished: ask(action.index, action.peer, abort, key) })
    }
  }

  async function ask(index: number, peer: PeerId, abort: AbortController, key: string): Promise<void> {
    let buffer: Buffer | undefined
    const into = (): Buffer => {
      buffer = pool.take()
      return buffer
    }
    try {
      const reason = await fetchInto(index, peer, abort.signal, into)
      // What was cancelled is off the planner's books already.
      if (reason === 'arrived') perform(planner.arrived(index, peer, performance.now()))
      else if (!abort.signal.aborted) planner.failed(index, peer, reason, performance.now())
    } finally {
      underway.delete(key)
      if (buffer) pool.give(buffer)
      pump()
    }
  }

  async function fetchInto(
    index: number,
    peer: PeerId,
    signal: AbortSignal,
    into: () => Buffer,
  ): Promise<FetchFailure | 'arrived'> {
    const cut = blocks.cut(index)
    if (!cut) return 'missing'
    let bytes: Buffer
    try {
      bytes = await exchange.fetch(peer, cut.cid, {
        length: cut.length,
        priority: deps.priority(),
        signal,
        stallMs: STALL_MS,
        into,
        onBytes: (count) => planner.progress(index, peer, count, performance.now()),
      })
    } catch (error) {
      if (isShoalError(error, 'BLOCK_MISSING')) return 'missing'
      if (isShoalError(error, 'TIMEOUT')) return 'timeout'
      return 'gone'
    }
    if (blocks.has(index)) return 'arrived'
    try {
      if (!(await blocks.acceptFromPeer(cut, bytes))) return 'arrived'
    } catch (error) {
      if (isShoalError(error, 'BLOCK_MISMATCH')) {
        log.warn({ digest: blocks.digest, index, peer }, 'peer sent a corrupt block and is shunned')
        return 'corrupt'
      }
      if (!isShoalError(error, 'STORE_FULL')) log.error({ error: String(error) }, 'storing a block failed')
      deps.onFull()
      if (!deps.keep(index, bytes)) return 'gone'
    }
    deps.onBlock(index, bytes, peer)
    return 'arrived'
  }

  return {
    pump,
    async stop() {
      stopped = true
      clearTimeout(timer)
      const all = [...underway.values()]
      for (const { abort } of all) abort.abort()
      await Promise.all(all.map(({ finished }) => finished))
    },
  }
}
