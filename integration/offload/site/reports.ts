import { ShoalError } from '../../../base/index.ts'
import type { PeerId } from '../../../manager/index.ts'
import type { PodOrder, PodRef, PodReport } from '../executor.ts'
import { readRef, readRefs, readReport } from '../messages.ts'
import type { Talk } from '../talk.ts'
import { type AppRecord, type Apps, isUp, type PodRecord } from './apps.ts'

export type Moving = {
  record: AppRecord
  pod: PodRecord
  from: PeerId
  to: PeerId
  status: 'moving' | 'moved' | 'failed'
}

/** Within this time a move that was asked for has begun. */
const BEGIN_MS = 60e3

/** What nodes tell of the pods that this manager placed, and what they ask about them. */
export interface Reports {
  /** Takes in what the node says of a pod; resolves when it is written down. */
  apply(peer: PeerId, report: PodReport): Promise<void>
}

export function createReports(deps: {
  talk: Talk
  apps: Apps
  members: { find(peer: PeerId): { name: string } | undefined }
  order: (record: AppRecord, pod: PodRecord) => PodOrder
  /** All of it runs, or something of it does no longer: timers and listeners want to know. */
  onApplied: (record: AppRecord) => void
  onMoving: (moving: Moving) => void
  now?: () => number
}): Reports {
  const { talk, apps, members, order, onApplied, onMoving, now = Date.now } = deps

  function find({ app, pod }: PodRef): { record: AppRecord; pod: PodRecord } | undefined {
    const record = apps.get(app)
    const found = record?.pods.find(({ name }) => name === pod)
    return record === undefined || found === undefined ? undefined : { record, pod: found }
  }

  async function apply(peer: PeerId, report: PodReport): Promise<void> {
    const found = find(report)
    if (found === undefined || found.record.wanted !== 'running') return
    const { record, pod } = found
    if (pod.generation !== report.generation || pod.peer === undefined) return
    const event = pod.peer === peer ? here(pod, report) : elsewhere(record, pod, peer, report)
    if (event === undefined) return
    await apps.save(record)
    if (event !== 'changed') onMoving({ record, pod, ...event })
    onApplied(record)
  }

  type Change = 'changed' | Pick<Moving, 'from' | 'to' | 'status'> | undefined

  /** From the node that it was placed on. */
  function here(pod: PodRecord, report: PodReport): Change {
    const before = JSON.stringify(pod)
    const wasMoving = pod.phase === 'moving'
    pod.phase = report.phase
    take(pod, report)
    // It runs on where it was. Before the move has begun it says so, too; a report of its beginning may be lost.
    const stays = report.phase === 'running' && pod.moving !== undefined
    if (stays && (wasMoving || now() - pod.moving!.since > BEGIN_MS)) {
      const { to } = pod.moving!
      delete pod.moving
      return { from: pod.peer!, to, status: 'failed' }
    }
    return JSON.stringify(pod) === before ? undefined : 'changed'
  }

  /** From another one of the same generation: a migration brings it there, this manager's or an operator's. */
  function elsewhere(record: AppRecord, pod: PodRecord, peer: PeerId, report: PodReport): Change {
    const from = pod.peer!
    if (report.phase === 'arriving') {
      if (pod.moving?.to === peer) return undefined
      pod.moving = { to: peer, since: now() }
      return { from, to: peer, status: 'moving' }
    }
    if (report.phase === 'running') {
      pod.peer = peer
      pod.node = members.find(peer)?.name ?? peer
      pod.phase = 'running'
      delete pod.moving
      take(pod, report)
      record.reasons = [
        ...record.reasons.filter((line) => !line.includes(' moved ')),
        `${pod.name} moved to ${pod.node}`,
      ]
      return { from, to: peer, status: 'moved' }
    }
    return undefined
  }

  function take(pod: PodRecord, report: PodReport): void {
    const record = apps.get(report.app)
    if (report.referenceURI === undefined) delete pod.referenceURI
    else pod.referenceURI = report.referenceURI
    if (report.reason === undefined) delete pod.reason
    else pod.reason = report.reason
    if (isUp(pod) && pod.startedMs === undefined && record?.offloadedAt !== undefined) {
      pod.startedMs = Math.max(0, now() - record.offloadedAt)
    }
  }

  talk.handle('report', async (peer, body) => {
    await apply(peer, readReport(body))
    return undefined
  })

  talk.handle('known', async (peer, body) => {
    const unknown = readRefs(body).filter((ref) => {
      const found = find(ref)
      if (found === undefined || found.record.wanted !== 'running') return true
      const { pod } = found
      return pod.generation !== ref.generation || (pod.peer !== peer && pod.moving?.to !== peer)
    })
    return { unknown: unknown.map(({ app, pod }) => ({ app, pod })) }
  })

  talk.handle('order', async (peer, body) => {
    const found = find(readRef(body))
    if (found === undefined || found.record.wanted !== 'running' || found.pod.peer === undefined) {
      throw new ShoalError('NOT_FOUND', 'its manager does not know of this pod')
    }
    const { record, pod } = found
    if (pod.moving?.to !== peer && pod.peer !== peer) {
      pod.moving = { to: peer, since: now() }
      await apps.save(record)
      onMoving({ record, pod, from: pod.peer!, to: peer, status: 'moving' })
    }
    return order(record, pod)
  })

  return { apply }
}
