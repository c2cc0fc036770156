import { createTurns, isShoalError, type Log, ShoalError } from '../../../base/index.ts'
import type { Membership, PeerId } from '../../../manager/index.ts'
import type { PodOrder, PodReport } from '../executor.ts'
import { list, readReport } from '../messages.ts'
import type { Talk } from '../talk.ts'
import { type AppRecord, type Apps, isUp, type PodRecord, unplace } from './apps.ts'
import type { Placing } from './placing.ts'
import type { Reports } from './reports.ts'
import type { Survey } from './survey.ts'

const ORDER_MS = 10e3
const REMOVE_MS = 60e3
const RETRY_MS = 1000
const MAX_RETRY_MS = 30e3
/** Applications that are worked on at the same time. */
const AT_ONCE = 16
/** So long nodes are dead before their pods are placed anew: whoever is cut off has lost the others one after the other. */
const LOSS_MS = 5000
/** A node that is not known after a start may only not have been heard of yet. */
const GRACE_MS = 120e3

export interface Lifecycle {
  /** Brings the application to what is wanted, now or after a while. */
  kick(id: string, afterMs?: number): void
  /** Removes everything of it everywhere; resolves when nothing is left. @throws ABORTED */
  remove(record: AppRecord, signal: AbortSignal): Promise<void>
  /** Asks the nodes about their pods, and starts what they do not have. */
  poll(): Promise<void>
  /** Nodes have gone: what was on them is placed anew. */
  checkNodes(): void
  close(): Promise<void>
}

/** What makes applications be what was asked for, over failures of nodes and restarts of this one. */
export function createLifecycle(deps: {
  talk: Talk
  apps: Apps
  members: Membership
  survey: Survey
  placing: Placing
  reports: Reports
  order: (record: AppRecord, pod: PodRecord) => PodOrder
  log: Log
  now?: () => number
  lossMs?: number | undefined
}): Lifecycle {
  const { talk, apps, members, survey, placing, reports, order, log } = deps
  const { now = Date.now, lossMs = LOSS_MS } = deps
  const closing = new AbortController()
  const { signal } = closing
  const turns = createTurns(AT_ONCE)
  const timers = new Map<string, NodeJS.Timeout>()
  const failures = new Map<string, number>()
  const startedAt = now()

  function kick(id: string, afterMs = 0): void {
    if (signal.aborted) return
    clearTimeout(timers.get(id))
    const timer = setTimeout(() => {
      timers.delete(id)
      void turn(id)
    }, afterMs)
    timer.unref()
    timers.set(id, timer)
  }

  async function turn(id: string): Promise<void> {
    try {
      const settled = await turns.run(id, () => converge(id))
      if (settled) failures.delete(id)
      else later(id)
    } catch (error) {
      if (signal.aborted) return
      log.warn({ err: error, app: id }, 'an application is not as it shall be')
      later(id)
    }
  }

  function later(id: string): void {
    const count = (failures.get(id) ?? 0) + 1
    failures.set(id, count)
    kick(id, Math.min(MAX_RETRY_MS, RETRY_MS * 2 ** (count - 1)))
  }

  /** False when it is to be tried again. */
  async function converge(id: string): Promise<boolean> {
    const record = apps.get(id)
    if (record === undefined || signal.aborted) return true
    if (record.wanted === 'gone') return true
    if (record.wanted === 'registered') return retire(record)
    if (record.up !== undefined) return true
    if (record.pods.some(({ peer }) => peer === undefined) && !(await fill(record))) return false
    const placed = record.pods.filter(({ peer }) => peer !== undefined)
    const done = await Promise.all(placed.map((pod) => (isUp(pod) ? true : start(record, pod))))
    const swept = await Promise.all(record.pods.map((pod) => sweepLeft(record, pod)))
    return [...done, ...swept].every((each) => each)
  }

  /** Finds a place for the pods that have none. */
  async function fill(record: AppRecord): Promise<boolean> {
    if (survey.isStale()) await survey.refresh({ now: true })
    if (record.wanted !== 'running') return false
    const { fits, changed } = placing.assign(record)
    if (!fits) {
      record.trouble = 'nothing fits it now'
      await apps.save(record)
      void survey.refresh()
      return false
    }
    // The intent is on disk before anybody is asked to do anything.
    await apps.save(record)
    for (const other of changed) {
      await apps.save(other)
      await Promise.all(other.pods.map((pod) => sweepLeft(other, pod)))
      kick(other.id)
    }
    return true
  }

  async function start(record: AppRecord, pod: PodRecord): Promise<boolean> {
    const peer = pod.peer!
    try {
      const report = readReport(
        await talk.ask(peer, 'ensure', order(record, pod), { signal, timeoutMs: ORDER_MS }),
      )
      if (pod.peer === peer) await reports.apply(peer, report)
      return true
    } catch (error) {
      if (signal.aborted || pod.peer !== peer || record.wanted !== 'running') return true
      pod.reason = (error as Error).message
      if (isShoalError(error, 'UNFIT')) {
        placing.refused(record.id, peer, pod.reason)
        unplace(pod, pod.reason)
      }
      await apps.save(record)
      return false
    }
  }

  /** Takes away what an earlier placement left on nodes that are there; the others ask by themselves when they come back. */
  async function sweepLeft(record: AppRecord, pod: PodRecord): Promise<boolean> {
    if (pod.left.length === 0) return true
    for (const peer of [...pod.left]) {
      if (!isGone(peer) && !(await removeAt(record, pod, peer, signal))) continue
      pod.left = pod.left.filter((other) => other !== peer)
    }
    await apps.save(record)
    return pod.left.length === 0
  }

  async function removeAt(
    record: AppRecord,
    pod: PodRecord,
    peer: PeerId,
    until: AbortSignal,
  ): Promise<boolean> {
    try {
      await talk.ask(
        peer,
        'remove',
        { app: record.id, pod: pod.name },
        { signal: until, timeoutMs: REMOVE_MS },
      )
      return true
    } catch (error) {
      if (!until.aborted)
        log.warn({ err: error, app: record.id, pod: pod.name, peer }, 'a pod is not removed yet')
      return false
    }
  }

  function isGone(peer: PeerId): boolean {
    const state = members.find(peer)?.state
    if (state === undefined) return now() - startedAt > GRACE_MS
    return state === 'dead' || state === 'left'
  }

  /** Its execution time is over: nothing of it runs any more, and it may be offloaded again. */
  async function retire(record: AppRecord): Promise<boolean> {
    for (const pod of record.pods) if (pod.peer !== undefined) unplace(pod, pod.reason)
    const swept = await Promise.all(record.pods.map((pod) => sweepLeft(record, pod)))
    return swept.every((each) => each)
  }

  async function remove(record: AppRecord, until: AbortSignal): Promise<void> {
    const both = AbortSignal.any([until, signal])
    for (let wait = 200; ; wait = Math.min(5000, wait * 2)) {
      const left = await turns.run(record.id, async () => {
        const all = await Promise.all(record.pods.map((pod) => removePod(record, pod, both)))
        return all.some((each) => !each)
      })
      if (!left) return
      if (both.aborted) throw new ShoalError('ABORTED', 'not all of it could be removed yet; it goes on')
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, wait)
        both.addEventListener(
          'abort',
          () => {
            clearTimeout(timer)
            resolve()
          },
          { once: true },
        )
      })
    }
  }

  async function removePod(record: AppRecord, pod: PodRecord, until: AbortSignal): Promise<boolean> {
    const places = new Set([pod.peer, pod.moving?.to, ...pod.left].filter((peer) => peer !== undefined))
    const done = await Promise.all(
      [...places].map(async (peer) => isGone(peer) || (await removeAt(record, pod, peer, until))),
    )
    return done.every((each) => each)
  }

  async function poll(): Promise<void> {
    const peers = new Set<PeerId>()
    for (const record of apps.all()) {
      if (record.wanted !== 'running' || record.up !== undefined) continue
      for (const { peer } of record.pods) if (peer !== undefined) peers.add(peer)
    }
    await Promise.all([...peers].map((peer) => pollNode(peer)))
  }

  async function pollNode(peer: PeerId): Promise<void> {
    const asked = now()
    let said: PodReport[]
    try {
      const answer = await talk.ask(peer, 'reports', { manager: talk.self }, { signal, timeoutMs: ORDER_MS })
      said = list(answer, readReport)
    } catch (error) {
      if (!signal.aborted) log.debug({ err: error, peer }, 'a node does not tell about its pods')
      return
    }
    const there = new Set(said.map(({ app, pod }) => `${app}/${pod}`))
    for (const report of said) await reports.apply(peer, report)
    for (const record of apps.all()) {
      if (record.wanted !== 'running') continue
      for (const pod of record.pods) {
        if (pod.peer !== peer || there.has(`${record.id}/${pod.name}`) || pod.moving !== undefined) continue
        if ((record.offloadedAt ?? 0) > asked) continue
        pod.phase = 'waiting'
        kick(record.id)
      }
    }
  }

  /** More than half of the site is out of reach: it is rather this node that is cut off, and the others' pods go on running. */
  function isCutOff(): boolean {
    const { self } = members
    const mine = members.list().filter(({ site, state }) => site === self.site && state !== 'left')
    const dead = mine.filter(({ state }) => state === 'dead').length
    return dead * 2 > mine.length
  }

  const lostAt = new Map<PeerId, number>()

  /** The node has been gone for long enough. */
  function isLost(peer: PeerId): boolean {
    if (!isGone(peer)) {
      lostAt.delete(peer)
      return false
    }
    const since = lostAt.get(peer) ?? now()
    lostAt.set(peer, since)
    if (now() - since >= lossMs) return true
    setTimeout(checkNodes, lossMs - (now() - since) + 1).unref()
    return false
  }

  function checkNodes(): void {
    if (signal.aborted) return
    const placed = [...apps.all()].filter(({ wanted, up }) => wanted === 'running' && up === undefined)
    const used = new Set(placed.flatMap(({ pods }) => pods.flatMap(({ peer }) => peer ?? [])))
    const lost = new Set([...used].filter(isLost))
    if (lost.size === 0 || isCutOff()) return
    for (const record of placed) {
      const gone = record.pods.filter(({ peer, moving }) => {
        // A migration that was under way may have got there.
        return peer !== undefined && lost.has(peer) && (moving === undefined || isGone(moving.to))
      })
      if (gone.length === 0) continue
      for (const pod of gone) unplace(pod, `${pod.node ?? pod.peer} is gone`)
      // The turn writes it down again with the new place.
      kick(record.id)
    }
  }

  return {
    kick,
    remove,
    poll,
    checkNodes,
    async close() {
      closing.abort(new ShoalError('ABORTED', 'the node is being stopped'))
      for (const timer of timers.values()) clearTimeout(timer)
      await turns.idle()
    },
  }
}
