import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { digestOf, silentLog } from '../../base/index.ts'
import { BLOCK_SIZE } from '../../blockstore/index.ts'
import { union, without } from '../../manager/storing/bits.ts'
import type { Holding } from '../../manager/storing/messages.ts'
import type { Peers } from '../../manager/storing/peers.ts'
import { spread } from '../../manager/storing/spreading.ts'
import { bitIndexes, fullBitfield } from '../../scheduler/index.ts'

const BLOCKS = 4
const blob = { digest: digestOf(Buffer.from('a')), size: BLOCKS * BLOCK_SIZE }
const all = fullBitfield(BLOCKS)
const none = new Uint8Array(1)

/** Nodes that do as they are told; `full` ones take nothing. */
function site(kept: Record<string, Uint8Array>, full: string[] = []) {
  const nodes = new Map<string, Holding>(
    Object.entries(kept).map(([id, bits]) => [id, { here: bits, kept: bits }]),
  )
  const change = (id: string, to: (kept: Uint8Array) => Uint8Array): Holding => {
    const bits = to(nodes.get(id)!.kept)
    const holding = { here: union(nodes.get(id)!.here, bits), kept: bits }
    nodes.set(id, holding)
    return holding
  }
  const peers: Peers = {
    holdings: async (id) => [nodes.get(id)!],
    take: async (id, { keep }) => change(id, (before) => (full.includes(id) ? before : union(before, keep))),
    release: async (id, _digest, drop) => change(id, (before) => without(before, drop)),
  }
  return {
    run: (copies: number, shares: Record<string, Uint8Array>) =>
      spread({
        blob: { ...blob, copies },
        shares: new Map(Object.entries(shares)),
        holdings: new Map(nodes),
        peers,
        release: true,
        paced: false,
        log: silentLog(),
        signal: AbortSignal.timeout(10_000),
      }),
    kept: (id: string) => bitIndexes(nodes.get(id)!.kept),
  }
}

describe("a blob's blocks on their way to where they belong", () => {
  it('move: the old holder gives up what the new one has', async () => {
    const nodes = site({ a: all, b: none })
    assert.equal((await nodes.run(1, { b: all })).whole, true)
    assert.deepEqual([nodes.kept('a'), nodes.kept('b')], [[], [0, 1, 2, 3]])
  })

  it('stay where nobody is known who could keep them', async () => {
    const nodes = site({ a: all, b: all })
    await nodes.run(2, {})
    assert.deepEqual(
      [nodes.kept('a'), nodes.kept('b')],
      [
        [0, 1, 2, 3],
        [0, 1, 2, 3],
      ],
    )
  })

  it('stay where the nodes that are known are fewer than the copies', async () => {
    const nodes = site({ a: all, b: all, c: none })
    await nodes.run(2, { c: all })
    assert.deepEqual(
      [nodes.kept('a'), nodes.kept('b'), nodes.kept('c')],
      [
        [0, 1, 2, 3],
        [0, 1, 2, 3],
        [0, 1, 2, 3],
      ],
    )
  })

  it('stay where a new holder does not take them', async () => {
    const nodes = site({ a: all, b: none }, ['b'])
    const done = await nodes.run(1, { b: all })
    assert.deepEqual([done.whole, done.open], [false, true])
    assert.deepEqual(nodes.kept('a'), [0, 1, 2, 3])
  })

  it('wait for a node that is away, which nothing can be done about', async () => {
    const nodes = site({ a: all })
    const done = await nodes.run(2, { a: all, away: all })
    assert.deepEqual([done.whole, done.open], [false, false])
  })
})
