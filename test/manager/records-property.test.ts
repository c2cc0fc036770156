import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { isShoalError } from '../../base/index.ts'
import { compareStamps } from '../../manager/records/clock.ts'
import type { PackedRow } from '../../manager/records/row.ts'
import type { Stamp } from '../../manager/types.ts'
import { createRecordsCluster, type RecordsCluster } from './records-cluster.ts'

const NODES = 4
const KEYS = ['x', 'y']

/** Random, but the same in every run of a seed; small, so that the order of messages is what varies. */
function latency(seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0
    return (state >>> 16) % 4
  }
}

type Step =
  | { do: 'put'; node: number; key: string; copies: number; wait: boolean }
  | { do: 'delete'; node: number; key: string }
  | { do: 'part'; parts: number[] }
  | { do: 'heal' }
  | { do: 'restart'; node: number }
  | { do: 'skew'; node: number; ms: number }
  | { do: 'pause' }

const node = fc.nat(NODES - 1)
const key = fc.constantFrom(...KEYS)
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant('put' as const),
      node,
      key,
      copies: fc.integer({ min: 1, max: NODES }),
      wait: fc.boolean(),
    }),
  },
  fc.record({ do: fc.constant('delete' as const), node, key }),
  fc.record({
    do: fc.constant('part' as const),
    parts: fc.array(fc.nat(2), { minLength: NODES, maxLength: NODES }),
  }),
  fc.record({ do: fc.constant('heal' as const) }),
  fc.record({ do: fc.constant('restart' as const), node }),
  fc.record({ do: fc.constant('skew' as const), node, ms: fc.integer({ min: -290_000, max: 290_000 }) }),
  fc.record({ do: fc.constant('pause' as const) }),
)

const name = ([ms, count, id]: [number, number, string, ...unknown[]]): string => `${ms}.${count}.${id}`

/** Every write with all that its writer knew of, directly or through other writes. */
function watch(cluster: RecordsCluster): Map<string, Map<string, { stamp: Stamp; knew: Set<string> }>> {
  const history = new Map<string, Map<string, { stamp: Stamp; knew: Set<string> }>>()
  cluster.onWrite = (writer, at, before, after) => {
    const writes = history.get(at) ?? new Map()
    history.set(at, writes)
    const [first] = after[0]
    if (first === undefined || first[2] !== writer || writes.has(name(first))) return
    const knew = new Set<string>()
    for (const write of (before as PackedRow | undefined)?.[0] ?? []) {
      knew.add(name(write))
      for (const older of writes.get(name(write))?.knew ?? []) knew.add(older)
    }
    writes.set(name(first), { stamp: { ms: first[0], count: first[1], node: first[2] }, knew })
  }
  return history
}

test('whatever happens between them, nodes that meet again agree on the last write and on who was beaten', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 25 }), fc.nat(), async (steps, seed) => {
      const cluster = createRecordsCluster()
      cluster.latencyMs = latency(seed)
      const history = watch(cluster)
      for (let i = 0; i < NODES; i++) cluster.add(`node${i}`)
      const puts: Promise<unknown>[] = []
      const put = (from: number, at: string, value: unknown, copies: number): Promise<unknown> => {
        const done = cluster.nodes[from]!.records.put(at, value, { copies }).catch((error) =>
          assert.ok(isShoalError(error, 'NO_QUORUM', 'ABORTED'), String(error)),
        )
        puts.push(done)
        return done
      }
      try {
        for (const [i, one] of steps.entries()) {
          if (one.do === 'put') {
            const done = put(one.node, one.key, i, one.copies)
            if (one.wait) await done
          } else if (one.do === 'delete') await put(one.node, one.key, undefined, 1)
          else if (one.do === 'part') cluster.partition(one.parts)
          else if (one.do === 'heal') cluster.partition()
          else if (one.do === 'restart') await cluster.restart(cluster.nodes[one.node]!)
          else if (one.do === 'skew') cluster.nodes[one.node]!.skewMs = one.ms
          else await new Promise((resolve) => setTimeout(resolve, 8))
        }
        await Promise.all(puts)
        cluster.partition()
        await cluster.equal()
        for (const [at, writes] of history) {
          const known = new Set([...writes.values()].flatMap(({ knew }) => [...knew]))
          const open = [...writes].filter(([id]) => !known.has(id)).map(([, { stamp }]) => stamp)
          const expected = open.sort((a, b) => compareStamps(b, a)).slice(0, 9)
          const record = await cluster.nodes[0]!.records.get(at)
          assert.deepEqual([record?.stamp, ...(record?.beaten ?? []).map(({ stamp }) => stamp)], expected)
          const highest = [...writes.values()].map(({ stamp }) => stamp).sort(compareStamps)
          assert.deepEqual(record?.stamp, highest[highest.length - 1])
        }
      } finally {
        await cluster.close()
      }
    }),
    { numRuns: 60 },
  )
})

test('a write that was confirmed by so many nodes outlives the loss of all of them but one', async () => {
  const scene = fc.record({
    copies: fc.integer({ min: 2, max: 4 }),
    writers: fc.array(fc.nat(3), { minLength: 1, maxLength: 12 }),
    /** In this order they die, one fewer than there are copies. */
    order: fc.shuffledSubarray([0, 1, 2, 3], { minLength: 4 }),
    /** So many writes are acknowledged when they do. */
    after: fc.nat(11),
    seed: fc.nat(),
  })
  await fc.assert(
    fc.asyncProperty(scene, async ({ copies, writers, order, after, seed }) => {
      const cluster = createRecordsCluster()
      cluster.latencyMs = latency(seed)
      for (let i = 0; i < 6; i++) cluster.add(`node${i}`)
      // Two are cut off and hear of nothing; they come back at the end.
      cluster.partition([0, 0, 0, 0, 1, 1])
      const nodes = [...cluster.nodes]
      const acknowledged = new Map<string, number>()
      const enough = Promise.withResolvers<void>()
      try {
        const puts = writers.map(async (writer, i) => {
          await nodes[writer]!.records.put(`key${i}`, i, { copies })
          acknowledged.set(`key${i}`, i)
          if (acknowledged.size === Math.min(after + 1, writers.length)) enough.resolve()
        })
        const ended = Promise.allSettled(puts)
        await enough.promise
        const safe = [...acknowledged]
        await Promise.all(order.slice(0, copies - 1).map((i) => cluster.stop(nodes[i]!, 'dead')))
        await ended
        cluster.partition()
        await cluster.equal()
        for (const [at, value] of safe) {
          for (const one of cluster.nodes) assert.equal((await one.records.get(at))?.value, value)
        }
      } finally {
        await cluster.close()
      }
    }),
    { numRuns: 60 },
  )
})
