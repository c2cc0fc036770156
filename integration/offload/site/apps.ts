import type { BlockStore } from '../../../blockstore/index.ts'
import type { PeerId } from '../../../manager/index.ts'
import type { PodPhase } from '../executor.ts'
import type { App, AppSpec, AppState, PodStatus } from '../types.ts'

/** A pod as its manager has it written down: where it was placed, and what was last heard of it. */
export interface PodRecord {
  name: string
  /** Undefined: it has no place. */
  peer?: PeerId
  node?: string
  generation: number
  phase: PodPhase
  referenceURI?: string
  startedMs?: number
  reason?: string
  /** It is on its way to there by a migration. */
  moving?: { to: PeerId; since: number }
  /** Nodes on which an earlier placement may have left something. */
  left: PeerId[]
}

export interface AppRecord {
  id: string
  owner: string
  spec: AppSpec
  createdAt: number
  /** What was asked for last. */
  wanted: 'registered' | 'running' | 'gone'
  pods: PodRecord[]
  reasons: string[]
  /** The UE's entry node, and the nodes that alone come into question. */
  entry?: PeerId
  within?: PeerId[]
  offloadedAt?: number
  /** When its execution time is over, ms since the epoch; from when all of it ran first. */
  endsAt?: number
  /** Why it cannot run now; it is tried again. */
  trouble?: string
  /** It was given to the next manager up, under this ID; what that one said last. */
  up?: { peer: PeerId; id: string; app?: App }
  /** A manager further down asked for it. */
  down?: { peer: PeerId; id: string }
}

export const APPS = 'offload-apps'

/** The applications of this manager, in memory and in the store's index. */
export interface Apps {
  get(id: string): AppRecord | undefined
  all(): IterableIterator<AppRecord>
  add(record: AppRecord): Promise<void>
  /** Writes down what the record says now; the listeners hear of it. One that was deleted meanwhile stays deleted. */
  save(record: AppRecord): Promise<void>
  delete(id: string): Promise<void>
  onChange(listener: (record: AppRecord) => void): () => void
  readonly size: number
}

export async function openApps(store: BlockStore): Promise<Apps> {
  const records = store.records<AppRecord>(APPS)
  const apps = new Map<string, AppRecord>()
  const listeners = new Set<(record: AppRecord) => void>()
  for await (const [id, record] of records.entries()) apps.set(id, record)
  function tell(record: AppRecord): void {
    for (const listener of listeners) listener(record)
  }
  return {
    get: (id) => apps.get(id),
    all: () => apps.values(),
    async add(record) {
      apps.set(record.id, record)
      try {
        await records.put(record.id, record)
      } catch (error) {
        // What is nowhere written down was never acknowledged.
        apps.delete(record.id)
        throw error
      }
      tell(record)
    },
    async save(record) {
      if (apps.get(record.id) !== record) return
      await records.put(record.id, record)
      tell(record)
    },
    async delete(id) {
      // Not found any more before it is removed: nobody may write it down after that.
      const record = apps.get(id)
      apps.delete(id)
      try {
        await records.delete(id)
      } catch (error) {
        if (record !== undefined) apps.set(id, record)
        throw error
      }
    },
    onChange(listener) {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    get size() {
      return apps.size
    },
  }
}

const SHOWN: Record<PodPhase, PodStatus['state']> = {
  waiting: 'pending',
  arriving: 'pending',
  removing: 'pending',
  pulling: 'pulling',
  starting: 'starting',
  running: 'running',
  moving: 'running',
  failed: 'failed',
}

export function isUp(pod: PodRecord): boolean {
  return pod.peer !== undefined && SHOWN[pod.phase] === 'running'
}

function stateOf(record: AppRecord, copying: boolean): AppState {
  if (record.wanted === 'gone') return 'deleting'
  if (record.wanted === 'registered') return copying ? 'copying' : 'registered'
  if (record.up !== undefined) return record.up.app?.state ?? 'starting'
  if (record.pods.every(isUp)) return 'running'
  if (record.trouble !== undefined || record.pods.some(({ phase }) => phase === 'failed')) return 'failed'
  return 'starting'
}

/** What the outside sees of it. `notes`: what is to be known beside the reasons of its placement. */
export function appOf(record: AppRecord, copying: boolean, notes: string[] = []): App {
  const { id, owner, spec, createdAt, up } = record
  const state = stateOf(record, copying)
  const asked = record.wanted === 'running'
  return {
    id,
    owner,
    spec,
    state,
    pods: up?.app !== undefined && asked ? up.app.pods : record.pods.map((pod) => podOf(pod, asked)),
    reasons: [
      ...(record.trouble === undefined ? [] : [record.trouble]),
      ...record.reasons,
      ...(up?.app !== undefined && asked ? up.app.reasons : []),
      ...notes,
    ],
    createdAt,
  }
}

function podOf(pod: PodRecord, asked: boolean): PodStatus {
  const { name, node, peer, startedMs, reason, referenceURI } = pod
  return {
    name,
    state: asked && peer !== undefined ? SHOWN[pod.phase] : 'pending',
    node,
    peer,
    referenceURI: isUp(pod) ? referenceURI : undefined,
    startedMs,
    reason,
  }
}

export function newRecord(facts: { id: string; owner: string; spec: AppSpec; createdAt: number }): AppRecord {
  const pods = facts.spec.pods.map(
    ({ name }): PodRecord => ({ name, generation: 0, phase: 'waiting', left: [] }),
  )
  return { ...facts, wanted: 'registered', pods, reasons: [] }
}

/** The pod has no place any more; what may be left of it there is remembered. */
export function unplace(pod: PodRecord, reason: string | undefined): void {
  if (pod.peer !== undefined && !pod.left.includes(pod.peer)) pod.left.push(pod.peer)
  delete pod.peer
  delete pod.node
  delete pod.referenceURI
  delete pod.moving
  delete pod.startedMs
  if (reason === undefined) delete pod.reason
  else pod.reason = reason
  pod.phase = 'waiting'
}

/** The application is registered only, again. */
export function rest(record: AppRecord, reasons: string[]): void {
  record.wanted = 'registered'
  record.reasons = reasons
  delete record.endsAt
  delete record.trouble
  delete record.offloadedAt
  for (const pod of record.pods) unplace(pod, undefined)
}
