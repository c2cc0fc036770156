import type { PeerId } from '../../../manager/index.ts'
import { type Placement, place } from '../placement.ts'
import type { AppSpec, Whereabouts } from '../types.ts'
import { type AppRecord, type Apps, type PodRecord, unplace } from './apps.ts'
import type { Survey } from './survey.ts'

/** So long a node that refused a pod is not asked for it again. */
const REFUSAL_MS = 15e3

export interface Placing {
  /** A decision for these pods of an application; nothing is done. */
  decide(spec: AppSpec, pods: string[], where: Whereabouts & { app?: string; avoid?: PeerId[] }): Placement
  /** Gives all pods of the application that have no place one, and takes that of others away where they must go. The caller saves; true if all have one. */
  assign(record: AppRecord): { fits: boolean; changed: AppRecord[] }
  /** The node has no room for it, as it says: it is not asked for a while. */
  refused(app: string, peer: PeerId, reason: string): void
}

export function createPlacing(deps: {
  survey: Survey
  apps: Apps
  members: { find(peer: PeerId): { name: string } | undefined }
  /** The entry node of UEs of which no other is known. */
  home: PeerId
  storedName: (image: string) => string
  now?: () => number
}): Placing {
  const { survey, apps, members, home, storedName, now = Date.now } = deps
  const refusals = new Map<string, { reason: string; until: number }>()

  function decide(
    spec: AppSpec,
    pods: string[],
    where: Whereabouts & { app?: string; avoid?: PeerId[] },
  ): Placement {
    const wanted = spec.pods
      .filter(({ name }) => pods.includes(name))
      .map((pod) => ({ ...pod, image: storedName(pod.image) }))
    const nodes = survey.nodes({
      entry: where.entry ?? home,
      within: where.within,
      except: (app, pod) => app === where.app && pods.includes(pod),
      refused(peer) {
        if (where.avoid?.includes(peer)) return 'is where it comes from'
        const known = refusals.get(`${where.app} ${peer}`)
        return known !== undefined && known.until > now() ? known.reason : undefined
      },
      images: [...new Set(wanted.map(({ image }) => image))],
    })
    const { requiredDelayMs, priority } = spec
    return place({ pods: wanted, requiredDelayMs, priority, nodes })
  }

  function assign(record: AppRecord): { fits: boolean; changed: AppRecord[] } {
    const open = record.pods.filter(({ peer }) => peer === undefined)
    if (open.length === 0) return { fits: true, changed: [] }
    const { fits, places, reasons } = decide(
      record.spec,
      open.map(({ name }) => name),
      { ...given('entry', record.entry), ...given('within', record.within), app: record.id },
    )
    record.reasons = reasons
    if (!fits) return { fits, changed: [] }
    const changed = new Set<AppRecord>()
    for (const { pod: name, peer, preempts } of places) {
      for (const key of preempts) {
        const other = evict(key, record)
        if (other !== undefined) changed.add(other)
      }
      settle(record.pods.find((pod) => pod.name === name)!, peer)
    }
    delete record.trouble
    return { fits, changed: [...changed] }
  }

  function settle(pod: PodRecord, peer: PeerId): void {
    pod.peer = peer
    pod.node = members.find(peer)?.name ?? peer
    pod.generation++
    pod.phase = 'waiting'
    pod.left = pod.left.filter((other) => other !== peer)
    delete pod.reason
  }

  function evict(key: string, by: AppRecord): AppRecord | undefined {
    const [id, name] = key.split('/')
    const other = apps.get(id!)
    const pod = other?.pods.find((each) => each.name === name)
    if (other === undefined || pod === undefined) return undefined
    unplace(pod, `it made room for ${by.spec.name} of higher priority`)
    return other
  }

  return {
    decide,
    assign,
    refused(app, peer, reason) {
      for (const [key, { until }] of refusals) if (until <= now()) refusals.delete(key)
      refusals.set(`${app} ${peer}`, { reason, until: now() + REFUSAL_MS })
    },
  }
}

function given<K extends string, V>(key: K, value: V | undefined): { [P in K]?: V } {
  return value === undefined ? {} : ({ [key]: value } as { [P in K]: V })
}
