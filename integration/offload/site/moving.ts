import { isShoalError, type Log } from '../../../base/index.ts'
import type { PeerId } from '../../../manager/index.ts'
import type { Talk } from '../talk.ts'
import { type AppRecord, type Apps, isUp } from './apps.ts'
import type { Placing } from './placing.ts'
import type { Moving } from './reports.ts'
import type { Survey } from './survey.ts'

const ORDER_MS = 20e3

/** Applications that follow their UE. */
export interface Following {
  /** Moves the pods whose required delay is no longer met at the entry node; resolves when the moves are under way. */
  follow(record: AppRecord, entry: PeerId): Promise<void>
}

export function createFollowing(deps: {
  talk: Talk
  apps: Apps
  survey: Survey
  placing: Placing
  onMoving: (moving: Moving) => void
  log: Log
  now?: () => number
}): Following {
  const { talk, apps, survey, placing, onMoving, log, now = Date.now } = deps

  return {
    async follow(record, entry) {
      const { requiredDelayMs } = record.spec
      if (requiredDelayMs === undefined || record.up !== undefined) return
      await survey.refresh({ now: true })
      for (const pod of record.pods) {
        const from = pod.peer
        if (from === undefined || pod.moving !== undefined || !isUp(pod)) continue
        const delay = survey.delay(entry, from)
        if (delay !== undefined && delay <= requiredDelayMs) continue
        const within = record.within === undefined ? {} : { within: record.within }
        const found = placing.decide(record.spec, [pod.name], {
          entry,
          ...within,
          app: record.id,
          avoid: [from],
        })
        const [place] = found.places
        // Nobody else is put out for a move.
        if (place === undefined || place.preempts.length > 0) {
          record.reasons = [
            `${pod.name} stays where it is: no other node is near enough and has room`,
            ...found.reasons,
          ]
          await apps.save(record)
          continue
        }
        record.reasons = found.reasons
        pod.moving = { to: place.peer, since: now() }
        await apps.save(record)
        const moving = { record, pod, from, to: place.peer }
        onMoving({ ...moving, status: 'moving' })
        try {
          await talk.ask(
            from,
            'move',
            { app: record.id, pod: pod.name, to: place.peer },
            { timeoutMs: ORDER_MS },
          )
        } catch (error) {
          log.warn(
            { err: error, app: record.id, pod: pod.name, to: place.peer },
            'a pod cannot follow its UE',
          )
          // Without an answer it may be on its way all the same: what the nodes report decides then.
          if (isShoalError(error, 'TIMEOUT', 'PEER_GONE')) continue
          if (pod.moving?.to === place.peer) delete pod.moving
          record.reasons = [`${pod.name} stays where it is: ${(error as Error).message}`]
          await apps.save(record)
          onMoving({ ...moving, status: 'failed' })
        }
      }
    },
  }
}
