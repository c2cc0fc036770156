import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { balanceWeights, fairParts, type PlacementNode, placeBlob } from '../../scheduler/index.ts'
import { hash32 } from '../../scheduler/rendezvous.ts'
import { BLOCK, chance, moves, placeAll, shares, someNodes, threeImages } from '../sim/placing.ts'

const site = fc.record({
  seed: fc.integer(),
  count: fc.integer({ min: 1, max: 16 }),
  copies: fc.integer({ min: 1, max: 2 }),
  equal: fc.boolean(),
})

/** What `placeBlob` is defined as, block by block: nodes of one cluster may run any version of it, and have to agree. */
function placeByDefinition(
  digest: string,
  count: number,
  nodes: PlacementNode[],
  copies: number,
): string[][] {
  const costs = nodes.map(({ id, weight }) => {
    const seed = hash32(id, hash32(digest, 0x9747b28c))
    const offset = (hash32('', seed) + 0.5) / 2 ** 32
    const order = Array.from({ length: count }, (_, index) => ({ index, drawn: hash32(String(index), seed) }))
    order.sort((a, b) => a.drawn - b.drawn || a.index - b.index)
    const own = order.map(
      ({ index }, rank) => [index, -Math.log1p(-(rank + offset) / count) / weight] as const,
    )
    return { id, weight, own: new Map(own) }
  })
  return Array.from({ length: count }, (_, index) =>
    costs
      .filter(({ weight }) => weight > 0)
      .sort((a, b) => a.own.get(index)! - b.own.get(index)! || (a.id < b.id ? -1 : 1))
      .slice(0, copies)
      .map(({ id }) => id),
  )
}

describe('placement of stored blobs', () => {
  it('is what its definition says', () => {
    fc.assert(
      fc.property(
        fc.string(),
        fc.integer({ min: 0, max: 200 }),
        fc.uniqueArray(fc.record({ id: fc.string(), weight: fc.double({ min: 0, max: 9, noNaN: true }) }), {
          selector: ({ id }) => id,
          maxLength: 12,
        }),
        fc.integer({ min: 0, max: 4 }),
        (digest, count, nodes, copies) => {
          assert.deepEqual(
            placeBlob(digest, count, nodes, copies),
            placeByDefinition(digest, count, nodes, copies),
          )
        },
      ),
    )
  })

  it('gives each block to as many distinct nodes as copies are wanted, or to all', () => {
    fc.assert(
      fc.property(site, fc.integer({ min: 1, max: 5 }), ({ seed, count, equal }, copies) => {
        const nodes = someNodes(chance(seed), count, equal)
        for (const keepers of placeBlob('sha256:a', 20, nodes, copies)) {
          assert.equal(keepers.length, Math.min(copies, count))
          assert.equal(new Set(keepers).size, keepers.length)
        }
      }),
    )
  })

  it('does not depend on the order of nodes and blobs', () => {
    fc.assert(
      fc.property(site, ({ seed, count, copies, equal }) => {
        const random = chance(seed)
        const nodes = someNodes(random, count, equal)
        const blobs = threeImages(random, copies)
        assert.deepEqual(placeAll(blobs.toReversed(), nodes.toReversed()), placeAll(blobs, nodes))
      }),
      { numRuns: 25 },
    )
  })

  it('gives each node its fair part within 15 %, or within a block', () => {
    fc.assert(
      fc.property(site, ({ seed, count, copies, equal }) => {
        const random = chance(seed)
        const nodes = someNodes(random, count, equal)
        const blobs = threeImages(random, copies)
        const blocks = blobs.reduce((sum, blob) => sum + blob.size / BLOCK, 0)
        const fair = fairParts(nodes, copies)
        for (const [at, share] of shares(blobs, nodes).entries()) {
          const slack = Math.max(0.15, 1 / (fair[at]! * blocks))
          assert.ok(Math.abs(share - 1) <= slack + 1e-9, `${share} of the fair part on ${count} nodes`)
        }
      }),
      { numRuns: 150 },
    )
  })

  it('moves little more than what a joining node gets, or a leaving one had', () => {
    for (const copies of [1, 2]) {
      for (let count = copies; count <= (copies === 1 ? 9 : 16); count++) {
        const random = chance(count)
        let joined = { moved: 0, must: 0 }
        let left = { moved: 0, must: 0 }
        for (let run = 0; run < 6; run++) {
          const nodes = someNodes(random, count + 1, run % 2 === 0)
          const blobs = threeImages(random, copies)
          const { moved, to } = moves(blobs, nodes.slice(1), nodes)
          const got = to.get(nodes[0]!.id)!
          joined = { moved: joined.moved + moved, must: joined.must + got }
          left = { moved: left.moved + moves(blobs, nodes, nodes.slice(1)).moved, must: left.must + got }
        }
        assert.ok(joined.moved <= 1.3 * joined.must, `join of ${count}: ${joined.moved} of ${joined.must}`)
        assert.ok(left.moved <= 1.3 * left.must, `leave to ${count}: ${left.moved} of ${left.must}`)
      }
    }
  })

  it('has an answer for what is odd: no nodes, no space, no blocks, no blobs', () => {
    assert.deepEqual(placeBlob('sha256:a', 2, [], 2), [[], []])
    assert.deepEqual(placeBlob('sha256:a', 1, [{ id: 'a', weight: 0 }], 1), [[]])
    assert.deepEqual(placeBlob('sha256:a', 0, [{ id: 'a', weight: 1 }], 1), [])
    assert.deepEqual(balanceWeights([], [{ id: 'a', weight: 3 }], BLOCK), [{ id: 'a', weight: 3 }])
    assert.deepEqual(
      fairParts(
        [
          { id: 'a', weight: 9 },
          { id: 'b', weight: 1 },
        ],
        2,
      ),
      [1, 1],
    )
    assert.deepEqual(fairParts([], 2), [])
  })

  it('holds for blobs of a few bytes and for very many blocks', () => {
    const nodes = someNodes(chance(1), 8, false)
    const tiny = [{ digest: 'sha256:a', size: 700, copies: 2 }]
    assert.ok(balanceWeights(tiny, nodes, BLOCK).every(({ weight }) => weight > 0))
    const huge = Array.from({ length: 4 }, (_, at) => ({ digest: `sha256:${at}`, size: 2 ** 36, copies: 2 }))
    assert.ok(balanceWeights(huge, nodes, BLOCK).every(({ weight }) => weight > 0))
  })
})
