import type { Digest, Log } from '../../base/index.ts'
import type { PeerId, Rpc } from '../../manager/index.ts'
import type { HostNeeds } from '../checkpoint/types.ts'
import type { Container, Place, Prepared, Recreation, Runtime, RuntimeName } from '../runtime/types.ts'
import type { Clock } from './clock.ts'
import type { Journal } from './journal.ts'
import type { Offer } from './messages.ts'
import type { HealthCheck, MoveHooks } from './types.ts'

/** What a capture made. */
export interface Load {
  recipe: Digest
  /** SHA-256 of the writable layer's tar. */
  writable: Digest
  /** Bytes that changed since the state before, before compression; bytes that this one added. */
  changed: number
  added: number
}

/** How states get from a container into the swarm and out of it again. The real one is in `carrier.ts`. */
export interface Carrier {
  /** Dumps the container, which stays as it was, and takes the state into the swarm. */
  capture(request: {
    id: string
    container: string
    runtime: Runtime
    base: Digest | undefined
    signal: AbortSignal
  }): Promise<Load>
  /** Makes the migration's directory at the target hold this state; resolves to the bytes that came from elsewhere. */
  assemble(request: {
    id: string
    recipe: Digest
    previous: Digest | undefined
    signal: AbortSignal
  }): Promise<{ fetched: number }>
  /** Makes the container's writable layer that of the assembled state. */
  unpack(id: string, prepared: Prepared, signal: AbortSignal): Promise<void>
  /** Directory of CRIU's images in the assembled state. */
  images(id: string): string
  /** Resolves when no process works on the migration's directory any more, such as a restore that outlived its daemon. */
  quiet(id: string, signal: AbortSignal): Promise<void>
  /** Removes the migration's directory and lets go of its states. Never throws. */
  forget(id: string): Promise<void>
}

/** What a node judges before anything is frozen. The real one is in `fit.ts`. */
export interface Judge {
  /** On the source: reasons why it cannot be moved wherever it goes, what it needs, and about how large it is. */
  leaving(
    container: Container,
    runtime: Runtime,
    options: { signal: AbortSignal },
  ): Promise<{ reasons: string[]; needs: HostNeeds; size: number }>
  /** On the target: reasons why it cannot come here, and the reference under which its base image can be pulled. */
  coming(
    offer: Offer,
    options: { place: Place; signal: AbortSignal },
  ): Promise<{ reasons: string[]; image: string | undefined }>
  /**
   * What to make at the target: TCP connections that were established when the container was frozen are closed when it is restored, or
   * kept where the same address is brought up.
   */
  adapted(recreation: Recreation, options: { tcpEstablished: boolean }): Promise<Recreation>
}

export interface Timings {
  /** How long one call to the other side may take before it is made again; work goes on there meanwhile. */
  callMs: number
  /** How long the other side may be out of reach while nothing is frozen. */
  patienceMs: number
  /** How long after handing over a person is asked. The two sides go on trying. */
  overdueMs: number
  /** How long nothing may be heard from the source before the target asks. */
  silentMs: number
  /** How long a restored container may take to be healthy. */
  healthMs: number
}

export const TIMINGS: Timings = {
  callMs: 5e3,
  patienceMs: 90e3,
  overdueMs: 120e3,
  silentMs: 15e3,
  healthMs: 15e3,
}

/** What both ends are made of. */
export interface Parts {
  self: PeerId
  journal: Journal
  rpc: Pick<Rpc, 'request' | 'handle'>
  clock: Clock
  timings: Timings
  /** @throws NOT_FOUND where this machine has no such runtime */
  runtime(name: RuntimeName): Promise<Runtime>
  carrier: Carrier
  judge: Judge
  health: (request: {
    container: string
    runtime: Runtime
    check: HealthCheck | undefined
    withinMs: number
    signal: AbortSignal
  }) => Promise<void>
  hooksFor(labels: Record<string, string>): MoveHooks | undefined
  /** Work that a daemon which stops waits for, a while. */
  track(work: Promise<unknown>): void
  log: Log
  /** Fires when the daemon stops. */
  signal: AbortSignal
}
