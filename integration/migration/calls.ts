import { isShoalError } from '../../base/index.ts'
import type { PeerId } from '../../manager/index.ts'
import {
  METHODS,
  type Offer,
  type Outcome,
  packOffer,
  readFetched,
  readOutcome,
  readReady,
  readReasons,
  type Shipped,
} from './messages.ts'
import type { Parts } from './parts.ts'

/** The way there was lost, or the other side is not ready to answer: the same call may work later. */
const PASSING = ['PEER_GONE', 'TIMEOUT', 'BUSY', 'PROTOCOL', 'UPSTREAM_UNREACHABLE', 'BLOCK_MISSING'] as const

/** What the source asks of the target. */
export function createCalls({ rpc, clock, timings, log }: Parts) {
  async function once<T>(
    peer: PeerId,
    method: string,
    body: object,
    read: (answer: unknown) => T,
    signal: AbortSignal,
  ): Promise<T> {
    return read(await rpc.request(peer, method, body, { signal, timeoutMs: timings.callMs }))
  }

  /** Says it again over a cut of the network, for as long as nothing is frozen and the container does not suffer. */
  async function patiently<T>(
    peer: PeerId,
    method: string,
    body: object,
    read: (answer: unknown) => T,
    signal: AbortSignal,
  ): Promise<T> {
    let silentSince = clock.now()
    for (let waitMs = 100; ; waitMs = Math.min(waitMs * 2, 2000)) {
      const from = clock.now()
      try {
        return await once(peer, method, body, read, signal)
      } catch (error) {
        signal.throwIfAborted()
        // Work that takes longer than one call goes on over there, and is asked for again.
        const busy = isShoalError(error, 'TIMEOUT') && clock.now() - from >= timings.callMs * 0.9
        if (busy && (await alive(peer, signal))) {
          silentSince = clock.now()
          waitMs = 50
        }
        if (!isShoalError(error, ...PASSING) || clock.now() - silentSince > timings.patienceMs) throw error
        await clock.sleep(waitMs, signal)
        signal.throwIfAborted()
      }
    }
  }

  /** Whether it answers at all: any answer will do. */
  async function alive(peer: PeerId, signal: AbortSignal): Promise<boolean> {
    try {
      await rpc.request(peer, METHODS.committed, { id: '0' }, { signal, timeoutMs: timings.callMs })
      return true
    } catch (error) {
      return !isShoalError(error, 'PEER_GONE', 'TIMEOUT', 'ABORTED')
    }
  }

  return {
    /** Reasons why it cannot come; none: it is being prepared. */
    offer: (peer: PeerId, offer: Offer, signal: AbortSignal): Promise<string[]> =>
      patiently(peer, METHODS.offer, packOffer(offer), readReasons, signal),

    /** Resolves when the container is made at the target. */
    async prepared(peer: PeerId, id: string, signal: AbortSignal): Promise<void> {
      while (!(await patiently(peer, METHODS.prepared, { id }, readReady, signal))) signal.throwIfAborted()
    },

    /** Resolves to the bytes that went over the network, when the target has the state. */
    round: (peer: PeerId, shipped: Shipped, signal: AbortSignal): Promise<number> =>
      patiently(peer, METHODS.round, shipped, readFetched, signal),

    /** The same of the frozen round: the target has it when it is told to start, or gets it then. */
    ahead(peer: PeerId, shipped: Shipped, signal: AbortSignal): void {
      once(peer, METHODS.round, shipped, readFetched, signal).catch((error) =>
        log.debug({ id: shipped.id, error: String(error) }, 'the target did not take it before its start'),
      )
    },

    /** One try: what comes of a failed one only the target knows. */
    start: (peer: PeerId, shipped: Shipped, signal: AbortSignal): Promise<Outcome> =>
      once(peer, METHODS.start, shipped, readOutcome, signal),

    cancel: (peer: PeerId, id: string, reason: string, signal: AbortSignal): Promise<Outcome> =>
      once(peer, METHODS.cancel, { id, reason: reason.slice(0, 1000) }, readOutcome, signal),

    /** So that the target need not find out by itself, which it does. */
    async callOff(peer: PeerId, id: string, reason: string, signal: AbortSignal): Promise<void> {
      const body = { id, reason: reason.slice(0, 1000) }
      await once(peer, METHODS.cancel, body, readOutcome, signal).catch((error) =>
        log.debug({ id, error: String(error) }, 'the target could not be told'),
      )
    },

    /** The same, of a migration that is done. */
    async committed(peer: PeerId, id: string, signal: AbortSignal): Promise<void> {
      await once(peer, METHODS.committed, { id }, () => {}, signal).catch((error) =>
        log.debug({ id, error: String(error) }, 'the target could not be told'),
      )
    },
  }
}

export type Calls = ReturnType<typeof createCalls>
