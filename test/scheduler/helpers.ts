import assert from 'node:assert/strict'
import {
  bitfield,
  type Cut,
  createLedger,
  type DispatchAnswer,
  type DispatchRequest,
  type Lease,
  type Ledger,
  type LedgerLimits,
  setBit,
} from '../../scheduler/index.ts'
import { seeded } from '../sim/clock.ts'

export { seeded }

export const BLOCK = 512 * 1024
export const MIB = 2 ** 20

export function fieldOf(bits: number, indexes: Iterable<number>): Uint8Array {
  const field = bitfield(bits)
  for (const index of indexes) setBit(field, index)
  return field
}

export function cutOf(index: number, seeder: string, options: { cid?: string; length?: number } = {}): Cut {
  return {
    index,
    cid: options.cid ?? `cid-${index}`,
    length: options.length ?? BLOCK,
    seeder,
    signature: new Uint8Array(4),
  }
}

export function span(start: number, end: number): number[] {
  return Array.from({ length: Math.max(0, end - start) }, (_, i) => start + i)
}

export function ledgerOf(limits: Partial<LedgerLimits> = {}, seed = 1): Ledger {
  return createLedger({ digest: 'sha256:test', blockSize: BLOCK, random: seeded(seed), limits })
}

/** Start and count of a lease that must be there. */
export function rangeOf(lease: Lease | undefined): [number, number] {
  assert.ok(lease, 'no lease')
  return [lease.start, lease.count]
}

/** A node as the ledger sees it: keeps what it has and what it was told, and dispatches. */
export class TestNode {
  readonly id: string
  readonly ledger: Ledger
  have = new Set<number>()
  version = 0
  size: number | undefined
  pulling = true
  seed: { rate: number } | undefined = { rate: 0 }
  fresh: Cut[] = []
  released: NonNullable<DispatchRequest['released']> = []
  last: DispatchAnswer | undefined

  constructor(
    ledger: Ledger,
    id: string,
    options: { size?: number; seed?: { rate: number } | undefined } = {},
  ) {
    this.ledger = ledger
    this.id = id
    this.size = options.size
    if ('seed' in options) this.seed = options.seed
  }

  dispatch(now: number): DispatchAnswer {
    const bits = Math.max(64, ...[...this.have].map((index) => index + 1))
    const answer = this.ledger.dispatch(
      {
        peer: this.id,
        version: this.version,
        have: fieldOf(bits, this.have),
        cuts: this.fresh,
        pulling: this.pulling,
        ...(this.size === undefined ? {} : { size: this.size }),
        ...(this.seed === undefined ? {} : { seed: this.seed }),
        ...(this.released.length === 0 ? {} : { released: this.released }),
      },
      now,
    )
    this.fresh = []
    this.released = []
    this.version = answer.version
    this.last = answer
    return answer
  }

  /** Blocks that it cut from upstream's bytes. */
  seeds(indexes: Iterable<number>): this {
    for (const index of indexes) {
      this.have.add(index)
      this.fresh.push(cutOf(index, this.id))
    }
    return this
  }

  gets(indexes: Iterable<number>): this {
    for (const index of indexes) this.have.add(index)
    return this
  }

  gives(
    id: string,
    reason: NonNullable<DispatchRequest['released']>[number]['reason'],
    detail?: string,
  ): this {
    this.released.push({ id, reason, ...(detail === undefined ? {} : { detail }) })
    return this
  }
}
