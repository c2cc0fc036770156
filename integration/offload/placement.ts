import { formatBytes } from '../../base/index.ts'
import type { PeerId } from '../../manager/index.ts'

/** Cores, bytes, bytes. */
export interface Resources {
  cpu: number
  memory: number
  storage: number
}

/** What is to be placed of one pod. */
export interface PlacementPod extends Resources {
  name: string
  image: string
}

/** A pod that runs there already and could make room. */
export interface RunningPod extends Resources {
  /** As the caller names it; given back in `preempts`. */
  key: string
  priority: number
  /** ms since the epoch; the younger of two equals goes first. */
  startedAt: number
}

/** A node as it was last measured. */
export interface PlacementNode {
  peer: PeerId
  name: string
  /** Why nothing can be placed there at all (no runtime, not reachable); undefined: it can. */
  unfit?: string
  free: Resources
  /** Speed of a core against the reference machine's. */
  score: number
  /** Pods of other applications that are on their way there: they start before. */
  pending: number
  /** Part of its cores that is busy with other things, 0 … 1. */
  busy: number
  /** From the UE's entry node, ms; undefined: not measured. */
  delayMs: number | undefined
  /** By image: bytes that are missing there, and how many a second would come. An image that is not here is not known yet. */
  images: Record<string, { missing: number; rate: number }>
  /** Pods of lower or any priority that this manager may take away. */
  running: RunningPod[]
}

export interface PlacementRequest {
  pods: PlacementPod[]
  requiredDelayMs: number | undefined
  priority: number
  nodes: PlacementNode[]
}

export interface Placed {
  pod: string
  peer: PeerId
  /** From now until it runs, estimated. */
  seconds: number
  /** Keys of the pods that must go first. */
  preempts: string[]
}

export interface Placement {
  /** All pods have a place; `places` is empty where one has none. */
  fits: boolean
  places: Placed[]
  /** A line a node, in the order of their names. */
  reasons: string[]
}

/** Seconds that creating and starting a container takes on the reference machine, beside its image. */
const START_S = 0.6
/** Pods that a node starts at the same time. */
const STARTED_AT_ONCE = 4
/** Bytes that a runtime unpacks a second on the reference machine. */
const UNPACK = 150e6
/** Below this, a difference of two estimates says nothing. */
const NOISE_S = 0.05

/** One node with what this very decision has given to it. */
interface Candidate {
  node: PlacementNode
  free: Resources
  /** Images that come there for an earlier pod of this application: they come once. */
  coming: Set<string>
  /** Seconds that it is busy with earlier pods of this application: their bytes share its link, their start its cores. */
  taken: number
  pods: PlacementPod[]
  preempted: RunningPod[]
  refused: Set<string>
}

/**
 * Decides on which node each pod of an application goes. Pure and deterministic: the same request gives the same answer, whatever
 * the order of the nodes.
 *
 * What counts as hard: the node's state, the delay, and CPU, memory and storage that are free. Among the nodes that are left, each
 * pod, the largest first, goes where it would run soonest, after the pods of the application that were given to that node before (list
 * scheduling, longest processing time first: R. L. Graham, "Bounds on Multiprocessing Timing Anomalies", 1969). That is what
 * spreads an application. Where a pod fits nowhere, all are packed tightest first; where that fails too, pods of lower priority go.
 */
export function place(request: PlacementRequest): Placement {
  const nodes = [...request.nodes].sort(byName)
  const attempts: ((pods: PlacementPod[], all: Candidate[]) => Placed[] | undefined)[] = [
    (pods, all) => assign(pods, all, request, 'soonest'),
    (pods, all) => assign(pods, all, request, 'tightest'),
    (pods, all) => assign(pods, all, request, 'preempting'),
  ]
  let last: Candidate[] = []
  for (const attempt of attempts) {
    last = nodes.map(candidate)
    const places = attempt(largestFirst(request.pods), last)
    if (places === undefined) continue
    const order = new Map(request.pods.map(({ name }, i) => [name, i]))
    places.sort((a, b) => order.get(a.pod)! - order.get(b.pod)!)
    return { fits: true, places, reasons: last.map((c) => reason(c, request, true)) }
  }
  return { fits: false, places: [], reasons: last.map((c) => reason(c, request, false)) }
}

function byName(a: PlacementNode, b: PlacementNode): number {
  return compare(a.name, b.name) || compare(a.peer, b.peer)
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}

function candidate(node: PlacementNode): Candidate {
  return {
    node,
    free: { ...node.free },
    coming: new Set(),
    taken: ((node.pending / STARTED_AT_ONCE) * START_S) / speedOf(node),
    pods: [],
    preempted: [],
    refused: new Set(),
  }
}

function largestFirst(pods: PlacementPod[]): PlacementPod[] {
  const weight = (pod: PlacementPod) => [pod.memory, pod.cpu, pod.storage]
  return [...pods].sort((a, b) => {
    const [x, y] = [weight(a), weight(b)]
    for (const i of x.keys()) if (x[i] !== y[i]) return y[i]! - x[i]!
    return compare(a.name, b.name)
  })
}

type Way = 'soonest' | 'tightest' | 'preempting'

function assign(
  pods: PlacementPod[],
  all: Candidate[],
  request: PlacementRequest,
  way: Way,
): Placed[] | undefined {
  const places: Placed[] = []
  for (const pod of pods) {
    const able = all.filter((c) => unable(c.node, request) === undefined)
    const roomy = able.filter((c) => fits(pod, c.free))
    for (const c of able) if (!fits(pod, c.free)) c.refused.add(shortOf(pod, c.free))
    let chosen = best(roomy, pod, way === 'tightest')
    let victims: RunningPod[] = []
    if (chosen === undefined && way === 'preempting') {
      const found = preempt(able, pod, request.priority)
      chosen = found?.from
      victims = found?.victims ?? []
    }
    if (chosen === undefined) return undefined
    for (const victim of victims) {
      chosen.preempted.push(victim)
      add(chosen.free, victim, 1)
    }
    const seconds = finish(chosen, pod)
    chosen.taken = seconds
    chosen.coming.add(pod.image)
    chosen.pods.push(pod)
    add(chosen.free, pod, -1)
    places.push({ pod: pod.name, peer: chosen.node.peer, seconds, preempts: victims.map(({ key }) => key) })
  }
  return places
}

function add(to: Resources, what: Resources, sign: 1 | -1): void {
  to.cpu += sign * what.cpu
  to.memory += sign * what.memory
  to.storage += sign * what.storage
}

/** Cores are sums of fractions: a billionth of one is no shortage. */
const EPSILON = 1e-9

function fits(pod: Resources, free: Resources): boolean {
  return pod.cpu <= free.cpu + EPSILON && pod.memory <= free.memory && pod.storage <= free.storage
}

/** When the pod would run there, in seconds from now. Grows with the bytes that are missing. */
function finish(c: Candidate, pod: PlacementPod): number {
  const speed = speedOf(c.node)
  const image = c.coming.has(pod.image) ? undefined : c.node.images[pod.image]
  const missing = Math.max(0, image?.missing ?? 0)
  const transfer = missing / Math.max(1, image?.rate ?? 1)
  return c.taken + transfer + (missing / UNPACK + START_S) / speed
}

function speedOf({ score, busy }: PlacementNode): number {
  return Math.max(0.05, score * (1 - 0.9 * clamp(busy)))
}

function clamp(part: number): number {
  return Math.min(1, Math.max(0, part))
}

function best(able: Candidate[], pod: PlacementPod, tightest: boolean): Candidate | undefined {
  let chosen: Candidate | undefined
  for (const c of able) if (chosen === undefined || better(c, chosen, pod, tightest)) chosen = c
  return chosen
}

/** True when `a` is to be preferred to `b`, which comes before it by name. */
function better(a: Candidate, b: Candidate, pod: PlacementPod, tightest: boolean): boolean {
  if (tightest) {
    const [left, right] = [a.free.memory - pod.memory, b.free.memory - pod.memory]
    if (left !== right) return left < right
    return a.free.cpu < b.free.cpu
  }
  const [x, y] = [finish(a, pod), finish(b, pod)]
  // Rounded, so that the order is one of all nodes and not only of neighbours.
  const [rx, ry] = [Math.round(x / NOISE_S), Math.round(y / NOISE_S)]
  if (rx !== ry) return rx < ry
  if (a.pods.length !== b.pods.length) return a.pods.length < b.pods.length
  const [da, db] = [a.node.delayMs ?? Infinity, b.node.delayMs ?? Infinity]
  // Half a millisecond of a LAN is nothing that a user notices.
  const [ra, rb] = [Math.round(da * 2), Math.round(db * 2)]
  if (ra !== rb) return ra < rb
  if (x !== y) return x < y
  return a.free.memory > b.free.memory
}

/** Where the pod could go if pods of lower priority went: the least important ones, and as few as will do. */
function preempt(
  able: Candidate[],
  pod: PlacementPod,
  priority: number,
): { from: Candidate; victims: RunningPod[] } | undefined {
  let chosen: { from: Candidate; victims: RunningPod[]; cost: number[] } | undefined
  for (const c of able) {
    const victims = victimsOn(c, pod, priority)
    if (victims === undefined) continue
    const cost = [
      Math.max(...victims.map((victim) => victim.priority)),
      victims.length,
      Math.round(finish(c, pod) / NOISE_S),
    ]
    if (chosen === undefined || lexical(cost, chosen.cost) < 0) chosen = { from: c, victims, cost }
  }
  return chosen
}

function lexical(a: number[], b: number[]): number {
  for (const i of a.keys()) if (a[i] !== b[i]) return a[i]! - b[i]!
  return 0
}

function victimsOn(c: Candidate, pod: PlacementPod, priority: number): RunningPod[] | undefined {
  const gone = new Set(c.preempted.map(({ key }) => key))
  const lower = c.node.running
    .filter((running) => running.priority < priority && !gone.has(running.key))
    .sort((a, b) => a.priority - b.priority || b.startedAt - a.startedAt || compare(a.key, b.key))
  const free = { ...c.free }
  const victims: RunningPod[] = []
  for (const running of lower) {
    if (fits(pod, free)) break
    add(free, running, 1)
    victims.push(running)
  }
  if (!fits(pod, free)) return undefined
  // The most important first: one that was taken before a larger one was found may stay after all.
  for (const victim of [...victims].reverse()) {
    add(free, victim, -1)
    if (fits(pod, free)) victims.splice(victims.indexOf(victim), 1)
    else add(free, victim, 1)
  }
  return victims
}

/** Why the node cannot take any pod of this application. */
function unable(node: PlacementNode, { requiredDelayMs }: PlacementRequest): string | undefined {
  if (node.unfit !== undefined) return node.unfit
  if (requiredDelayMs === undefined) return undefined
  if (node.delayMs === undefined)
    return `its delay from the entry node is not known, ${requiredDelayMs} ms at most are required`
  if (node.delayMs > requiredDelayMs) {
    return `${ms(node.delayMs)} from the entry node, ${requiredDelayMs} ms at most are required`
  }
  return undefined
}

function shortOf(pod: PlacementPod, free: Resources): string {
  const short: string[] = []
  if (pod.cpu > free.cpu + EPSILON) short.push(`${cores(pod.cpu)} cores, ${cores(free.cpu)} are free`)
  if (pod.memory > free.memory) short.push(`${size(pod.memory)} of memory, ${size(free.memory)} are free`)
  if (pod.storage > free.storage)
    short.push(`${size(pod.storage)} of storage, ${size(free.storage)} are free`)
  return `${pod.name} needs ${short.join(' and ')}`
}

function reason(c: Candidate, request: PlacementRequest, fit: boolean): string {
  const { node } = c
  const no = unable(node, request)
  if (no !== undefined) return `${node.name}: ${no}`
  const facts = [
    node.delayMs === undefined ? '' : `${ms(node.delayMs)} from the entry node`,
    ...[...new Set(request.pods.map(({ image }) => image))].map((image) => imageFacts(node, image)),
  ].filter((fact) => fact !== '')
  if (fit && c.pods.length > 0) {
    const names = c.pods.map(({ name }) => name).join(', ')
    const instead =
      c.preempted.length === 0
        ? ''
        : `, instead of ${c.preempted.map(({ key }) => key).join(', ')} of lower priority`
    return `${node.name}: takes ${names}${instead}, in about ${c.taken.toFixed(1)} s (${facts.join('; ')})`
  }
  const refusal = [...c.refused][0]
  if (refusal !== undefined) return `${node.name}: ${refusal}`
  return fit
    ? `${node.name}: others start sooner (${facts.join('; ')})`
    : `${node.name}: has room for some pods, not for all`
}

function imageFacts(node: PlacementNode, image: string): string {
  const known = node.images[image]
  if (known === undefined) return `${image} is not known yet`
  if (known.missing <= 0) return `${image} is there`
  return `${size(known.missing)} of ${image} missing at ${size(known.rate)}/s`
}

function ms(delay: number): string {
  return `${delay < 10 ? delay.toFixed(1) : delay.toFixed(0)} ms`
}

function cores(count: number): string {
  return `${Math.max(0, Math.round(count * 1000) / 1000)}`
}

function size(bytes: number): string {
  return formatBytes(Math.max(0, bytes))
}
