import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import {
  type Placement,
  type PlacementNode,
  type PlacementPod,
  type PlacementRequest,
  place,
  type RunningPod,
} from '../../../integration/offload/placement.ts'

const GIB = 2 ** 30
const MIB = 2 ** 20

function node(name: string, more: Partial<PlacementNode> = {}): PlacementNode {
  return {
    peer: `id-${name}`,
    name,
    free: { cpu: 4, memory: 4 * GIB, storage: 100 * GIB },
    score: 1,
    pending: 0,
    busy: 0,
    delayMs: 1,
    images: { app: { missing: 0, rate: 100e6 } },
    running: [],
    ...more,
  }
}

function pod(name: string, more: Partial<PlacementPod> = {}): PlacementPod {
  return { name, image: 'app', cpu: 0.5, memory: 256 * MIB, storage: GIB, ...more }
}

function running(key: string, priority: number, more: Partial<RunningPod> = {}): RunningPod {
  return { key, priority, startedAt: 0, cpu: 1, memory: GIB, storage: GIB, ...more }
}

interface Situation {
  what: string
  nodes: PlacementNode[]
  pods?: PlacementPod[]
  requiredDelayMs?: number
  priority?: number
  /** `pod=node`, with `!key` for each that must go; undefined: it fits nowhere. */
  places: string[] | undefined
  /** Each is in the line of some node. */
  reasons?: RegExp[]
}

const missing = (mib: number, rate = 100e6) => ({ app: { missing: mib * MIB, rate } })
const cpu = (free: number) => ({ cpu: free, memory: 4 * GIB, storage: 100 * GIB })
const memory = (free: number) => ({ cpu: 4, memory: free, storage: 100 * GIB })

const SITUATIONS: Situation[] = [
  {
    what: 'one node that has all',
    nodes: [node('a')],
    places: ['p=a'],
    reasons: [/^a: takes p, in about 0\.6 s \(1\.0 ms from the entry node; app is there\)$/],
  },
  { what: 'no node', nodes: [], places: undefined },
  {
    what: 'equal nodes: the first by name',
    nodes: [node('b'), node('a'), node('c')],
    places: ['p=a'],
    reasons: [/^b: others start sooner/],
  },
  {
    what: 'the image is there on one',
    nodes: [node('a', { images: missing(256) }), node('b')],
    places: ['p=b'],
    reasons: [/^a: others start sooner .*256 MiB of app missing at 95\.4 MiB\/s/],
  },
  {
    what: 'half of the image is better than nothing of it',
    nodes: [node('a', { images: missing(256) }), node('b', { images: missing(128) })],
    places: ['p=b'],
  },
  {
    what: 'more is missing, but comes faster',
    nodes: [node('a', { images: missing(256, 500e6) }), node('b', { images: missing(200, 10e6) })],
    places: ['p=a'],
  },
  {
    what: 'an image that nobody knows yet decides nothing',
    nodes: [node('a', { images: {} }), node('b', { images: {} })],
    places: ['p=a'],
    reasons: [/app is not known yet/],
  },
  {
    what: 'two pods are spread',
    nodes: [node('a'), node('b')],
    pods: [pod('p'), pod('q')],
    places: ['p=a', 'q=b'],
  },
  {
    what: 'four pods over two nodes',
    nodes: [node('a'), node('b')],
    pods: ['p', 'q', 'r', 's'].map((name) => pod(name)),
    places: ['p=a', 'q=b', 'r=a', 's=b'],
  },
  {
    what: 'a large image comes once: the second pod shares it',
    nodes: [node('a', { images: missing(2000) }), node('b', { images: missing(4000) })],
    pods: [pod('p'), pod('q')],
    places: ['p=a', 'q=a'],
  },
  {
    what: 'spread even where both must fetch it, if that is sooner',
    nodes: [node('a', { images: missing(20) }), node('b', { images: missing(20) })],
    pods: ['p', 'q', 'r'].map((name) => pod(name)),
    places: ['p=a', 'q=b', 'r=a'],
  },
  {
    what: 'too little CPU',
    nodes: [node('a', { free: cpu(0.25) }), node('b')],
    places: ['p=b'],
    reasons: [/^a: p needs 0\.5 cores, 0\.25 are free$/],
  },
  {
    what: 'too little memory',
    nodes: [node('a', { free: memory(100 * MIB) }), node('b')],
    places: ['p=b'],
    reasons: [/^a: p needs 256 MiB of memory, 100 MiB are free$/],
  },
  {
    what: 'too little storage',
    nodes: [node('a', { free: { cpu: 4, memory: GIB, storage: MIB } })],
    places: undefined,
    reasons: [/^a: p needs 1\.00 GiB of storage, 1\.00 MiB are free$/],
  },
  {
    what: 'too little of everything, said at once',
    nodes: [node('a', { free: { cpu: 0, memory: 0, storage: 0 } })],
    places: undefined,
    reasons: [/cores.* and .*memory.* and .*storage/],
  },
  {
    what: 'overbooked nodes have nothing, not less than nothing',
    nodes: [node('a', { free: cpu(-3) })],
    places: undefined,
    reasons: [/0 are free/],
  },
  {
    what: 'exactly what is free',
    nodes: [node('a', { free: { cpu: 0.5, memory: 256 * MIB, storage: GIB } })],
    places: ['p=a'],
  },
  {
    what: 'sums of fractions of cores',
    nodes: [node('a', { free: cpu(0.3) })],
    pods: ['p', 'q', 'r'].map((name) => pod(name, { cpu: 0.1 })),
    places: ['p=a', 'q=a', 'r=a'],
  },
  {
    what: 'all pods or none',
    nodes: [node('a', { free: cpu(0.6) })],
    pods: [pod('p'), pod('q')],
    places: undefined,
    reasons: [/^a: q needs 0\.5 cores/],
  },
  {
    what: 'a node that is too far',
    nodes: [node('a', { delayMs: 30 }), node('b', { delayMs: 5, images: missing(256) })],
    requiredDelayMs: 20,
    places: ['p=b'],
    reasons: [/^a: 30 ms from the entry node, 20 ms at most are required$/],
  },
  {
    what: 'nobody is near enough',
    nodes: [node('a', { delayMs: 30 })],
    requiredDelayMs: 20,
    places: undefined,
  },
  {
    what: 'a delay that nobody measured is not met',
    nodes: [node('a', { delayMs: undefined })],
    requiredDelayMs: 20,
    places: undefined,
    reasons: [/its delay from the entry node is not known/],
  },
  {
    what: 'no delay is required: an unmeasured one does not matter',
    nodes: [node('a', { delayMs: undefined })],
    places: ['p=a'],
  },
  {
    what: 'the entry node itself, where only that will do',
    nodes: [node('a', { delayMs: 0.4 }), node('b', { delayMs: 0 })],
    requiredDelayMs: 0.1,
    places: ['p=b'],
  },
  {
    what: 'of two that are as fast the nearer one',
    nodes: [node('a', { delayMs: 9 }), node('b', { delayMs: 2 })],
    places: ['p=b'],
  },
  {
    what: 'a faster processor',
    nodes: [node('a', { score: 0.3 }), node('b', { score: 1.2 })],
    places: ['p=b'],
  },
  { what: 'a processor that is free', nodes: [node('a', { busy: 0.9 }), node('b')], places: ['p=b'] },
  {
    what: 'others start there already',
    nodes: [node('a', { pending: 12 }), node('b', { pending: 1 })],
    places: ['p=b'],
  },
  {
    what: 'no runtime',
    nodes: [node('a', { unfit: 'has no container runtime' }), node('b', { images: missing(900) })],
    places: ['p=b'],
    reasons: [/^a: has no container runtime$/],
  },
  {
    what: 'the largest pod gets its place first',
    nodes: [node('a', { free: memory(GIB) }), node('b', { free: memory(300 * MIB) })],
    pods: [pod('p'), pod('q', { memory: GIB })],
    places: ['p=b', 'q=a'],
  },
  {
    what: 'packed tightly where that alone works',
    nodes: [
      node('a', { free: memory(768 * MIB) }),
      node('b', { free: memory(512 * MIB), images: missing(900) }),
    ],
    pods: [pod('p', { memory: 512 * MIB }), pod('q', { memory: 384 * MIB }), pod('r', { memory: 384 * MIB })],
    places: ['p=b', 'q=a', 'r=a'],
  },
  {
    what: 'a lower one makes room',
    nodes: [node('a', { free: cpu(0), running: [running('x/1', 1)] })],
    priority: 2,
    places: ['p=a!x/1'],
    reasons: [/^a: takes p, instead of x\/1 of lower priority/],
  },
  {
    what: 'one of the same priority does not',
    nodes: [node('a', { free: cpu(0), running: [running('x/1', 2)] })],
    priority: 2,
    places: undefined,
  },
  {
    what: 'nobody goes while there is room elsewhere',
    nodes: [
      node('a', { free: cpu(0), running: [running('x/1', 1)] }),
      node('b', { images: missing(4000, 1e6) }),
    ],
    priority: 9,
    places: ['p=b'],
  },
  {
    what: 'the least important goes, and no more than must',
    nodes: [node('a', { free: cpu(0), running: [running('x/1', 3), running('y/1', 1), running('z/1', 2)] })],
    priority: 9,
    places: ['p=a!y/1'],
  },
  {
    what: 'of equals the youngest goes',
    nodes: [
      node('a', {
        free: cpu(0),
        running: [running('old/1', 1, { startedAt: 5 }), running('new/1', 1, { startedAt: 9 })],
      }),
    ],
    priority: 2,
    places: ['p=a!new/1'],
  },
  {
    what: 'two small ones for a large one',
    nodes: [node('a', { free: cpu(0), running: [running('x/1', 1), running('y/1', 1), running('z/1', 1)] })],
    pods: [pod('p', { cpu: 2 })],
    priority: 2,
    places: ['p=a!x/1!y/1'],
  },
  {
    what: 'a small one stays where the large one is enough',
    nodes: [
      node('a', {
        free: cpu(0),
        running: [running('small/1', 1, { cpu: 0.1 }), running('large/1', 2, { cpu: 3 })],
      }),
    ],
    pods: [pod('p', { cpu: 2 })],
    priority: 5,
    places: ['p=a!large/1'],
  },
  {
    what: 'preemption where the less important one is',
    nodes: [
      node('a', { free: cpu(0), running: [running('x/1', 4)] }),
      node('b', { free: cpu(0), running: [running('y/1', 1)] }),
    ],
    priority: 5,
    places: ['p=b!y/1'],
  },
  {
    what: 'not where it is too far',
    nodes: [node('a', { delayMs: 50, free: cpu(0), running: [running('x/1', 1)] })],
    requiredDelayMs: 20,
    priority: 5,
    places: undefined,
  },
]

function shown({ fits, places }: Placement): string[] | undefined {
  if (!fits) return undefined
  return places.map(
    ({ pod: name, peer, preempts }) => `${name}=${peer.slice(3)}${preempts.map((key) => `!${key}`).join('')}`,
  )
}

describe('placement in known situations', () => {
  for (const {
    what,
    nodes,
    pods = [pod('p')],
    requiredDelayMs,
    priority = 1,
    places,
    reasons = [],
  } of SITUATIONS) {
    test(what, () => {
      const found = place({ pods, requiredDelayMs, priority, nodes })
      assert.deepEqual(shown(found), places, found.reasons.join('\n'))
      assert.equal(found.reasons.length, nodes.length, 'a line a node')
      for (const reason of reasons) {
        assert.ok(
          found.reasons.some((line) => reason.test(line)),
          `${reason} is in none of:\n${found.reasons.join('\n')}`,
        )
      }
    })
  }
})

const IMAGES = ['one', 'two']
const amounts = (max: number) => fc.integer({ min: 0, max }).map((tenths) => tenths / 10)
const anyRunning = (name: string) =>
  fc
    .array(
      fc.record({
        priority: fc.integer({ min: 0, max: 4 }),
        startedAt: fc.integer({ min: 0, max: 9 }),
        cpu: amounts(20),
        memory: fc.integer({ min: 0, max: 900 }),
        storage: fc.integer({ min: 0, max: 900 }),
      }),
      { maxLength: 4 },
    )
    .map((all) => all.map((one, i) => ({ ...one, key: `${name}/${i}` })))
const anyNode = (name: string): fc.Arbitrary<PlacementNode> =>
  anyRunning(name).chain((pods) =>
    fc.record({
      peer: fc.constant(`id-${name}`),
      name: fc.constant(name),
      free: fc.record({
        cpu: amounts(40),
        memory: fc.integer({ min: -50, max: 2000 }),
        storage: fc.integer({ min: 0, max: 2000 }),
      }),
      score: fc.double({ min: 0.1, max: 3, noNaN: true }),
      pending: fc.integer({ min: 0, max: 8 }),
      busy: fc.double({ min: 0, max: 1, noNaN: true }),
      delayMs: fc.option(fc.double({ min: 0, max: 40, noNaN: true }), { nil: undefined }),
      images: fc.record(
        Object.fromEntries(
          IMAGES.map((image) => [
            image,
            fc.record({
              missing: fc.integer({ min: 0, max: 500e6 }),
              rate: fc.integer({ min: 1e5, max: 2e8 }),
            }),
          ]),
        ),
        { requiredKeys: [] },
      ) as fc.Arbitrary<PlacementNode['images']>,
      running: fc.constant(pods),
    }),
  )
const anyNodes = fc
  .integer({ min: 1, max: 6 })
  .chain((count) => fc.tuple(...Array.from({ length: count }, (_, i) => anyNode(`n${i}`)))) as fc.Arbitrary<
  PlacementNode[]
>
const anyPods = fc
  .array(
    fc.record({
      image: fc.constantFrom(...IMAGES),
      cpu: amounts(20),
      memory: fc.integer({ min: 0, max: 900 }),
      storage: fc.integer({ min: 0, max: 900 }),
    }),
    { minLength: 1, maxLength: 6 },
  )
  .map((all): PlacementPod[] => all.map((one, i) => ({ ...one, name: `p${i}` })))
const anyRequest: fc.Arbitrary<PlacementRequest> = fc.record({
  pods: anyPods,
  requiredDelayMs: fc.option(fc.integer({ min: 0, max: 40 }), { nil: undefined }),
  priority: fc.integer({ min: 0, max: 5 }),
  nodes: anyNodes,
})

describe('placement, whatever is asked', () => {
  test('no node is given more than it has, and what must go is of lower priority and there', () => {
    fc.assert(
      fc.property(anyRequest, (request) => {
        const { fits, places } = place(request)
        if (!fits) return places.length === 0
        assert.deepEqual(
          places.map((placed) => placed.pod),
          request.pods.map(({ name }) => name),
        )
        for (const at of request.nodes) {
          const given = places.filter(({ peer }) => peer === at.peer)
          const gone = given.flatMap(({ preempts }) => preempts)
          assert.equal(new Set(gone).size, gone.length)
          const victims = gone.map((key) => at.running.find((pod) => pod.key === key)!)
          assert.ok(victims.every((victim) => victim.priority < request.priority))
          if (given.length > 0 && request.requiredDelayMs !== undefined)
            assert.ok(at.delayMs! <= request.requiredDelayMs)
          for (const what of ['cpu', 'memory', 'storage'] as const) {
            const used = given.reduce(
              (sum, { pod: name }) => sum + request.pods.find((each) => each.name === name)![what],
              0,
            )
            const room = victims.reduce((sum, victim) => sum + victim[what], at.free[what])
            assert.ok(used === 0 || used <= room + 1e-6, `${what} of ${at.name}: ${used} of ${room}`)
          }
        }
        return true
      }),
      { numRuns: 600 },
    )
  })

  test('the same answer for the same question, in whatever order the nodes are named', () => {
    fc.assert(
      fc.property(
        anyRequest,
        fc.infiniteStream(fc.double({ min: 0, max: 1, noNaN: true })),
        (request, random) => {
          const before = JSON.stringify(request)
          const first = place(request)
          assert.equal(JSON.stringify(request), before, 'what was asked is left as it was')
          const nodes = request.nodes
            .map((each) => ({ each, at: random.next().value! }))
            .sort((a, b) => a.at - b.at)
            .map(({ each }) => each)
          assert.deepEqual(place({ ...request, nodes }), first)
        },
      ),
      { numRuns: 300 },
    )
  })

  test('more missing bytes never bring a pod to a node that it did not go to with less, and never make it start sooner', () => {
    fc.assert(
      fc.property(anyRequest, fc.nat(), fc.integer({ min: 1, max: 500e6 }), (request, which, more) => {
        const one = { ...request, pods: request.pods.slice(0, 1) }
        const [{ image }] = one.pods as [PlacementPod]
        const at = one.nodes[which % one.nodes.length]!
        const known = at.images[image] ?? { missing: 0, rate: 1e6 }
        const worse = {
          ...at,
          images: { ...at.images, [image]: { ...known, missing: known.missing + more } },
        }
        const before = place(one)
        const after = place({ ...one, nodes: one.nodes.map((each) => (each === at ? worse : each)) })
        assert.equal(after.fits, before.fits)
        const [was] = before.places
        const [is] = after.places
        if (is?.peer === at.peer) {
          assert.equal(was?.peer, at.peer)
          assert.ok(is.seconds >= was!.seconds)
        }
      }),
      { numRuns: 600 },
    )
  })

  test('a line for each node', () => {
    fc.assert(
      fc.property(anyRequest, (request) => {
        const { reasons } = place(request)
        assert.equal(reasons.length, request.nodes.length)
        for (const { name } of request.nodes) assert.ok(reasons.some((line) => line.startsWith(`${name}: `)))
      }),
    )
  })
})
