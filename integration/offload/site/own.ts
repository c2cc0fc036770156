import { randomUUID } from 'node:crypto'
import { ShoalError } from '../../../base/index.ts'
import { checkApp } from '../checks.ts'
import type { Offload } from '../types.ts'
import { type AppRecord, type Apps, newRecord, rest } from './apps.ts'
import type { Copying } from './copying.ts'
import type { Finishing } from './finishing.ts'
import type { Following } from './moving.ts'
import type { Placing } from './placing.ts'
import type { Survey } from './survey.ts'
import type { Up } from './up.ts'
import type { View } from './view.ts'

const MAX_APPS = 10_000
const MAX_OF_OWNER = 1000
/** An ID of the device API's, as a container's name can hold it. */
const ID = /^[0-9a-f]{32}$/

export type Own = Omit<Offload, 'onChange' | 'onMoved' | 'close'>

/** What of the interface this node does for its own applications. */
export function createOwn(deps: {
  apps: Apps
  copying: Copying
  survey: Survey
  placing: Placing
  following: Following
  finishing: Finishing
  /** The next manager up, which is made of this. */
  up: () => Up
  view: View
  kick: (id: string) => void
  /** The node is being stopped. */
  closing: AbortSignal
  now: () => number
}): Own {
  const { apps, copying, survey, placing, following, up, kick, closing, now } = deps
  const { imagesOf, shown, checkImage } = deps.view
  const { finish } = deps.finishing

  function owned(owner: string, id: string): AppRecord | undefined {
    const record = apps.get(id)
    return record?.owner === owner && record.wanted !== 'gone' ? record : undefined
  }

  /** Who is told that nothing fits has waited until the nodes were asked once more; who gets a place does not wait. */
  async function assign(record: AppRecord): Promise<{ fits: boolean; changed: AppRecord[] }> {
    const first = placing.assign(record)
    if (first.fits) return first
    await survey.refresh({ now: true })
    return record.wanted === 'running' ? placing.assign(record) : first
  }

  return {
    async register(owner, given, { id = randomUUID().replaceAll('-', '') } = {}) {
      const spec = checkApp(given)
      if (!ID.test(id)) throw new ShoalError('USAGE', 'an ID is made of 32 hexadecimal digits')
      for (const { image } of spec.pods) checkImage(image)
      const known = apps.get(id)
      if (known !== undefined) {
        if (known.owner !== owner) throw new ShoalError('USAGE', 'the ID is taken')
        if (known.wanted === 'gone')
          throw new ShoalError('BUSY', 'an application of this ID is being removed')
        return shown(known)
      }
      const mine = [...apps.all()].filter((app) => app.owner === owner).length
      if (apps.size >= MAX_APPS || mine >= MAX_OF_OWNER) {
        throw new ShoalError('BUSY', 'too many applications are registered')
      }
      const record = newRecord({ id, owner, spec, createdAt: now() })
      await apps.add(record)
      for (const name of imagesOf(record)) copying.want(name)
      // By the time that it is offloaded the nodes have told what they have.
      void survey.refresh()
      return shown(record)
    },

    async offload(owner, id, where) {
      const record = owned(owner, id)
      if (record === undefined) throw new ShoalError('NOT_FOUND', 'there is no such application')
      if (record.wanted === 'running') return shown(record)
      if (survey.isStale()) await survey.refresh({ now: true })
      else void survey.refresh()
      if (owned(owner, id)?.wanted !== 'registered') return shown(record)
      record.wanted = 'running'
      record.offloadedAt = now()
      if (where.entry === undefined) delete record.entry
      else record.entry = where.entry
      if (where.within === undefined) delete record.within
      else record.within = where.within
      const { fits, changed } = await assign(record)
      if (record.wanted !== 'running') throw new ShoalError('NOT_FOUND', 'it was deleted meanwhile')
      if (fits) {
        try {
          await apps.save(record)
        } catch (error) {
          rest(record, [])
          for (const other of changed) kick(other.id)
          throw error
        }
        for (const other of changed) {
          await apps.save(other)
          kick(other.id)
        }
        kick(id)
        return shown(record)
      }
      const here = record.reasons
      const there = await up().offload(record, where)
      if (record.wanted !== 'running') {
        // Who deleted it may have been there before it was given.
        if (there.given) await up().remove(record, closing)
        throw new ShoalError('NOT_FOUND', 'it was deleted meanwhile')
      }
      if (!there.given) {
        rest(record, [...here, ...there.reasons])
        await apps.save(record)
        throw new ShoalError('UNFIT', 'the application fits nowhere', {
          details: { reasons: record.reasons },
        })
      }
      record.reasons = [...here, ...there.reasons]
      await apps.save(record)
      return shown(record)
    },

    async get(owner, id) {
      const record = apps.get(id)
      return record?.owner === owner ? shown(record) : undefined
    },

    async list(owner) {
      return [...apps.all()].filter((record) => record.owner === owner).map(shown)
    },

    async delete(owner, id, signal) {
      const record = apps.get(id)
      if (record === undefined || record.owner !== owner) return false
      const before = record.wanted
      const first = before !== 'gone'
      record.wanted = 'gone'
      try {
        if (first) await apps.save(record)
      } catch (error) {
        record.wanted = before
        throw error
      }
      await finish(record, signal)
      return first
    },

    async available(given, where) {
      const spec = checkApp(given)
      if (survey.isStale()) await survey.refresh({ now: true })
      else void survey.refresh()
      const names = spec.pods.map(({ name }) => name)
      const first = placing.decide(spec, names, where)
      if (!first.fits) await survey.refresh({ now: true })
      const { fits, places, reasons } = first.fits ? first : placing.decide(spec, names, where)
      if (fits) return { fits, reasons, nodes: [...new Set(places.map(({ peer }) => peer))] }
      const above = await up().available(spec, where)
      return { fits: above.fits, reasons: [...reasons, ...above.reasons], nodes: above.nodes }
    },

    async moved(owner, entry, follows = () => true) {
      const mine = [...apps.all()].filter((record) => record.owner === owner && record.wanted === 'running')
      for (const record of mine) {
        if (!follows(shown(record))) continue
        if (record.entry !== entry) {
          record.entry = entry
          await apps.save(record)
        }
        await following.follow(record, entry)
      }
    },
  }
}
