import type { Digest, Log } from '../../base/index.ts'
import { type DispatchAnswer, type PeerId, type ReleaseReason, rendezvous } from '../../scheduler/index.ts'
import type { Membership, Rpc } from '../types.ts'
import { createBell } from './bell.ts'
import type { Blocks } from './blocks.ts'
import type { Coordinator } from './coordinator.ts'
import { packDispatch, readAnswer } from './messages.ts'

const TIMEOUT_MS = 1500
/** A coordinator that did not answer is passed over for so long. */
const AVOID_MS = 3000
const MIN_PAUSE_MS = 15
/** Between dispatches once blocks are coming: neighbours tell the news themselves. */
const STEADY_MS = 250

/** The talk of one task with its coordinator: reports what came, learns who has what, gets leases. */
export interface Dispatching {
  readonly coordinator: PeerId
  /** Something is worth telling or asking now. */
  kick(): void
  /** Gives a lease back with the next dispatch. */
  release(id: string, reason: ReleaseReason, detail?: string): void
  /** Cuts proved wrong: the book is read anew from its start, and what replaced them here is reported. */
  revise(): void
  run(signal: AbortSignal): Promise<void>
  /** The last word: complete or given up. */
  finish(): Promise<void>
}

export function createDispatching(deps: {
  digest: Digest
  blocks: Blocks
  members: Membership
  rpc: Rpc
  coordinator: Coordinator
  /** Present when this node could fetch from upstream. */
  seed: () => { rate: number } | undefined
  onAnswer: (answer: DispatchAnswer) => void
  log: Log
}): Dispatching {
  const { digest, blocks, members, rpc, coordinator, log } = deps
  const self = members.self.id
  const bell = createBell()
  const avoid = new Map<PeerId, number>()
  const reported = new Set<number>()
  let released: { id: string; reason: ReleaseReason; detail?: string }[] = []
  let current: PeerId | undefined
  let version = 0
  let kicked = false

  function choose(): PeerId {
    const now = Date.now()
    const site = members.site().map((member) => member.id)
    const able = site.filter((id) => id === self || (avoid.get(id) ?? 0) < now)
    return rendezvous(digest, able)[0] ?? self
  }

  function turnTo(peer: PeerId): void {
    if (peer === current) return
    current = peer
    forgetVersion()
    // Leases are the old coordinator's word; the new one knows nothing of their IDs.
    released = []
  }

  function forgetVersion(): void {
    version = 0
    reported.clear()
  }

  async function ask(
    peer: PeerId,
    pulling: boolean,
    signal: AbortSignal | undefined,
  ): Promise<DispatchAnswer> {
    const cuts = blocks.cuts().filter((cut) => !reported.has(cut.index))
    const seed = pulling ? deps.seed() : undefined
    const giving = released
    released = []
    const request = {
      peer: self,
      version,
      have: blocks.bits(),
      cuts,
      pulling,
      ...(blocks.size === undefined ? {} : { size: blocks.size }),
      ...(blocks.mediaType === undefined ? {} : { mediaType: blocks.mediaType }),
      ...(seed ? { seed } : {}),
      ...(giving.length > 0 ? { released: giving } : {}),
    }
    try {
      const answer =
        peer === self
          ? await coordinator.dispatch(digest, request)
          : readAnswer(
              await rpc.request(peer, 'dispatch', packDispatch(digest, request), {
                timeoutMs: TIMEOUT_MS,
                ...(signal ? { signal } : {}),
              }),
            )
      for (const cut of cuts) reported.add(cut.index)
      return answer
    } catch (error) {
      released = [...giving, ...released]
      throw error
    }
  }

  return {
    get coordinator() {
      return current ?? choose()
    },
    kick() {
      kicked = true
      bell.ring()
    },
    release(id, reason, detail) {
      released.push({ id, reason, ...(detail === undefined ? {} : { detail: detail.slice(0, 512) }) })
      this.kick()
    },
    revise() {
      forgetVersion()
      this.kick()
    },
    async run(signal) {
      while (!signal.aborted) {
        kicked = false
        const peer = choose()
        turnTo(peer)
        let pause = MIN_PAUSE_MS
        try {
          const answer = await ask(peer, true, signal)
          if (signal.aborted) return
          // A lower version than ours is another book: it was lost with the coordinator's process.
          if (answer.version < version) forgetVersion()
          else {
            version = answer.version
            for (const cut of answer.cuts) reported.add(cut.index)
          }
          deps.onAnswer(answer)
          pause = Math.max(blocks.bytesHere > 0 ? STEADY_MS : MIN_PAUSE_MS, answer.retryMs)
        } catch (error) {
          if (signal.aborted) return
          log.info({ coordinator: peer, error: String(error) }, 'dispatch failed')
          if (peer !== self) {
            avoid.set(peer, Date.now() + AVOID_MS)
            members.doubt(peer)
          }
        }
        if (!kicked) await bell.wait(signal, pause).catch(() => {})
        else await new Promise((resolve) => setTimeout(resolve, MIN_PAUSE_MS))
      }
    },
    async finish() {
      if (current === undefined) return
      await ask(current, false, undefined).catch(() => {})
    },
  }
}
