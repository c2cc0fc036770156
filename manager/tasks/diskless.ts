import { isShoalError, type Log } from '../../base/index.ts'
import { BLOCK_SIZE, cidOf } from '../../blockstore/index.ts'
import type { Origin } from '../types.ts'
import type { Blocks } from './blocks.ts'
import { type Signer, signCut } from './cuts.ts'
import { eachBlock } from './cutting.ts'

const WINDOW = 8
/** Neighbours are given so long to send the next block before upstream is asked. */
const WAIT_MS = 1000

/**
 * A task whose disk is full passes the blob through: blocks wait in memory for their readers, a few at a time and in
 * order, and are let go. Such a node takes no leases (it could not share what it fetched); what no neighbour has, it reads
 * from upstream for itself.
 */
export interface Diskless {
  readonly active: boolean
  readonly window: number
  start(): void
  /** Holds a block that came from a peer; false when enough are held. */
  keep(index: number, bytes: Uint8Array): boolean
  /** Runs beside the task until the signal; sleeps while the disk is not full. */
  run(signal: AbortSignal): void
}

export function createDiskless(deps: {
  blocks: Blocks
  signer: Signer
  origin: () => Origin | undefined
  /** Reader -> index of the block it waits for or reads ahead. */
  readers: ReadonlyMap<number, number>
  verifierAt: () => number
  lastMove: () => number
  onStart: () => void
  onBlock: (index: number, bytes: Uint8Array) => void
  onGone: (index: number) => void
  log: Log
}): Diskless {
  const { blocks, readers, signer, log } = deps
  const held = new Set<number>()
  let active = false

  /** The lowest block that somebody still needs. */
  function front(): number {
    if (readers.size === 0) return 0
    return Math.min(deps.verifierAt(), ...readers.values())
  }

  function letGo(): void {
    // The reader's block of this turn is behind its position by one.
    const first = front() - 1
    for (const index of held) {
      if (index >= first) continue
      held.delete(index)
      blocks.release(index)
      if (!blocks.has(index) && index >= front()) deps.onGone(index)
    }
  }

  async function passThrough(signal: AbortSignal): Promise<void> {
    const origin = deps.origin()
    const next = front()
    if (!origin || readers.size === 0 || blocks.has(next)) return
    const answer = await origin.fetch({ start: next * BLOCK_SIZE, end: undefined }, signal)
    const first = answer.ranged ? next : 0
    if (answer.size !== undefined) await blocks.describe({ size: answer.size })
    const body = untilUnread(answer.body)
    await eachBlock(body, Buffer.allocUnsafeSlow(BLOCK_SIZE), first, async (index, bytes) => {
      if (blocks.has(index) || index < front()) return
      while (blocks.inMemory >= WINDOW && held.size > 0) {
        letGo()
        if (blocks.inMemory >= WINDOW) await blocks.bell.wait(signal)
      }
      const cut = { index, cid: cidOf(bytes), length: bytes.byteLength }
      blocks.keepInMemory(signCut(signer, blocks.digest, cut), bytes)
      held.add(index)
      deps.onBlock(index, bytes)
    })
  }

  async function* untilUnread(body: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    for await (const chunk of body) {
      if (readers.size === 0) return
      yield chunk
    }
  }

  return {
    get active() {
      return active
    },
    window: WINDOW,
    start() {
      if (active) return
      active = true
      deps.onStart()
      blocks.bell.ring()
    },
    keep(index, bytes) {
      const cut = blocks.cut(index)
      if (!cut || held.size >= 2 * WINDOW) return false
      blocks.keepInMemory(cut, bytes)
      held.add(index)
      return true
    },
    async run(signal) {
      while (!signal.aborted) {
        try {
          await blocks.bell.wait(signal, 500)
          if (!active) continue
          letGo()
          if (performance.now() - deps.lastMove() > WAIT_MS) await passThrough(signal)
        } catch (error) {
          if (signal.aborted) return
          const level = isShoalError(error) ? 'info' : 'error'
          log[level]({ error: String(error) }, 'reading past the full disk failed')
          await new Promise((resolve) => setTimeout(resolve, WAIT_MS))
        }
      }
    },
  }
}
