import { createTurns, isShoalError, type Log } from '../../../base/index.ts'
import type { Membership, PeerId, StoredBlob } from '../../../manager/index.ts'
import type { NodeFacts } from '../measures.ts'
import { readFacts } from '../messages.ts'
import type { PlacementNode, RunningPod } from '../placement.ts'
import type { Talk } from '../talk.ts'
import { type Apps, isUp } from './apps.ts'

const ANSWER_MS = 4000
/** Facts older than this are asked for again by the way; older than the other, a placement waits for new ones. */
const FRESH_MS = 5000
const STALE_MS = 600e3
const ASKED_AT_ONCE = 16
const MAX_IMAGES = 64
/** Bytes a second that are taken for granted where nothing was seen yet. */
const UNSEEN = { neighbour: 40e6, uplink: 12e6 }
/** All neighbours together are no faster than this, unless one alone was seen to be. */
const LINK = 120e6

interface Known {
  facts: NodeFacts | undefined
  /** Why nothing is known. */
  why: string | undefined
  at: number
  /** By image, bytes that are there. */
  here: Map<string, number>
}

/** What a manager knows of the nodes of its site: asked for when a node turns up and when somebody places, never else. */
export interface Survey {
  /** Asks all nodes again where what is known has aged; `now`: whatever its age. Nobody waits for who does not answer within 4 s. */
  refresh(options?: { now?: boolean }): Promise<void>
  /** Asks nodes that have turned up: they shall have loaded what they need for pods before somebody waits for it. */
  meet(): void
  /** What is known is too old to decide by. */
  isStale(): boolean
  /** The nodes as placement sees them, from what is known now. */
  nodes(query: {
    entry: PeerId | undefined
    within: readonly PeerId[] | undefined
    /** Pods that are not counted: they are what is placed. */
    except: (app: string, pod: string) => boolean
    /** Nodes that have just refused, and why. */
    refused: (peer: PeerId) => string | undefined
    images: string[]
  }): PlacementNode[]
  delay(from: PeerId, to: PeerId): number | undefined
}

export function createSurvey(deps: {
  talk: Talk
  members: Membership
  apps: Apps
  /** Images of which nodes are asked how much they have, and what they are made of. */
  images: () => { name: string; blobs: StoredBlob[] }[]
  blobs: (image: string) => StoredBlob[] | undefined
  log: Log
  now?: () => number
}): Survey {
  const { talk, members, apps, log, now = Date.now } = deps
  const known = new Map<PeerId, Known>()
  const turns = createTurns(ASKED_AT_ONCE)
  let met = new Set<PeerId>()
  let refreshedAt = Number.NEGATIVE_INFINITY
  let running: Promise<void> | undefined

  async function ask(peer: PeerId, images: { name: string; blobs: StoredBlob[] }[]): Promise<void> {
    const here = new Map<string, number>()
    let facts: NodeFacts | undefined
    let why: string | undefined
    try {
      const body = { images: images.map(({ blobs }) => blobs.map(({ digest }) => digest)) }
      facts = readFacts(await talk.ask(peer, 'facts', body, { timeoutMs: ANSWER_MS }))
      for (const [i, { name }] of images.entries()) here.set(name, facts.here[i] ?? 0)
    } catch (error) {
      why = isShoalError(error, 'PROTOCOL') ? 'has no container runtime' : (error as Error).message
      log.debug({ err: error, peer }, 'a node did not tell what it has')
    }
    known.set(peer, { facts, why, at: now(), here })
  }

  async function all(): Promise<void> {
    const site = members.site()
    const images = deps.images().slice(0, MAX_IMAGES)
    await Promise.all(site.map(({ id }) => turns.run(id, () => ask(id, images))))
    const present = new Set(site.map(({ id }) => id))
    for (const id of known.keys()) if (!present.has(id)) known.delete(id)
    refreshedAt = now()
  }

  function delay(from: PeerId, to: PeerId): number | undefined {
    if (from === to) return 0
    const forth = known.get(from)?.facts?.links.find(({ peer }) => peer === to)?.latencyMs
    const back = known.get(to)?.facts?.links.find(({ peer }) => peer === from)?.latencyMs
    if (forth === undefined || back === undefined) return forth ?? back
    return Math.min(forth, back)
  }

  /** Bytes of the image that are missing on the node, and how fast they would come: what neighbours have from them, the rest from upstream. */
  function imageAt(peer: PeerId, image: string): { missing: number; rate: number } | undefined {
    const blobs = deps.blobs(image)
    if (blobs === undefined) return undefined
    const size = blobs.reduce((sum, blob) => sum + blob.size, 0)
    const at = known.get(peer)
    const missing = Math.max(0, size - (at?.here.get(image) ?? 0))
    const rates = new Map(at?.facts?.links.map(({ peer: other, rate }) => [other, rate]) ?? [])
    let held = 0
    let fastest = 0
    let rate = 0
    for (const [other, { here }] of known) {
      const bytes = here.get(image) ?? 0
      if (other === peer || bytes === 0) continue
      held += bytes
      const seen = rates.get(other) || UNSEEN.neighbour
      rate += seen
      fastest = Math.max(fastest, seen)
    }
    const near = Math.min(missing, held)
    const far = missing - near
    const uplink = Math.max(...[...known.values()].map(({ facts }) => facts?.uplink ?? 0), 0) || UNSEEN.uplink
    const seconds = near / Math.max(1, Math.min(rate, Math.max(fastest, LINK))) + far / uplink
    return { missing, rate: missing === 0 ? LINK : missing / seconds }
  }

  return {
    refresh({ now: at_once = false } = {}) {
      if (running !== undefined) return running
      if (!at_once && now() - refreshedAt < FRESH_MS) return Promise.resolve()
      running = all().finally(() => {
        running = undefined
      })
      return running
    },
    meet() {
      const before = met
      met = new Set(members.site().map(({ id }) => id))
      const images = deps.images().slice(0, MAX_IMAGES)
      for (const id of met) if (!before.has(id)) void turns.run(id, () => ask(id, images))
    },
    isStale: () => now() - refreshedAt > STALE_MS,
    delay,
    nodes({ entry, within, except, refused, images }) {
      const own = new Map<PeerId, RunningPod[]>()
      const pending = new Map<PeerId, number>()
      for (const app of apps.all()) {
        for (const [i, pod] of app.pods.entries()) {
          const spec = app.spec.pods[i]!
          if (app.wanted === 'gone' || except(app.id, pod.name)) continue
          const running: RunningPod = {
            key: `${app.id}/${pod.name}`,
            priority: app.spec.priority,
            startedAt: app.offloadedAt ?? 0,
            cpu: spec.cpu,
            memory: spec.memory,
            storage: spec.storage,
          }
          if (pod.peer !== undefined && !isUp(pod)) pending.set(pod.peer, (pending.get(pod.peer) ?? 0) + 1)
          for (const peer of [pod.peer, pod.moving?.to]) {
            if (peer === undefined) continue
            const there = own.get(peer) ?? []
            there.push(running)
            own.set(peer, there)
          }
        }
      }
      return members.site().map(({ id, name, state }): PlacementNode => {
        const at = known.get(id)
        const facts = at?.facts
        const pods = own.get(id) ?? []
        const foreign = facts?.reserved.filter(({ manager }) => manager !== talk.self) ?? []
        const free = (what: 'cpu' | 'memory' | 'storage') =>
          [...pods, ...foreign].reduce((left, entry) => left - entry[what], facts?.capacity[what] ?? 0)
        const unfit =
          state !== 'alive'
            ? 'does not answer'
            : within !== undefined && !within.includes(id)
              ? 'is not where it is asked for'
              : facts === undefined
                ? (at?.why ?? 'has not told yet what it has')
                : (facts.unfit ?? refused(id))
        const entries = images.map((image) => [image, imageAt(id, image)] as const)
        return {
          peer: id,
          name,
          ...(unfit === undefined ? {} : { unfit }),
          free: { cpu: free('cpu'), memory: free('memory'), storage: free('storage') },
          score: facts?.score ?? 1,
          pending: pending.get(id) ?? 0,
          busy: facts?.busy ?? 0,
          delayMs: entry === undefined ? undefined : delay(entry, id),
          images: Object.fromEntries(
            entries.filter(([, image]) => image !== undefined),
          ) as PlacementNode['images'],
          running: pods.filter(({ key }) => {
            const [app, pod] = key.split('/')
            const record = apps.get(app!)?.pods.find(({ name: of }) => of === pod)
            return (
              record?.peer === id &&
              record.moving === undefined &&
              (isUp(record) || record.phase !== 'arriving')
            )
          }),
        }
      })
    },
  }
}
