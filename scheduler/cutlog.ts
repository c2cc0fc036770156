import type { Cut, PeerId } from './types.ts'

/** The cuts of one blob, and in which order they became known, so that an asker is told only what is new to it. */
export interface CutLog {
  /** False if the cut adds nothing: known, rejected, shunned, or another one came first for its index. */
  add(cut: Cut): boolean
  get(index: number): Cut | undefined
  /** Takes out the cut if it is the one in use; another seeder's cut for the index, if one was noted, follows it. */
  reject(index: number, cid: string): Cut | undefined
  /** Rejects all cuts of a seeder, now and later; the indexes that lost theirs. */
  shun(seeder: PeerId): number[]
  shunned(seeder: PeerId): boolean
  /** True if a cut for the index was rejected once: then a node's bit for it may mean the wrong block. */
  doubted(index: number): boolean
  /** The version at which the index got its cut; Infinity if it has none. */
  versionOf(index: number): number
  /** The indexes that have a cut. */
  indexes(): Iterable<number>
  readonly version: number
  /** True if this log gave out that version. */
  issued(version: number): boolean
  /** At most `limit` cuts after `version`, and the version that the asker has reached with them. */
  since(version: number, limit: number, skip: (index: number) => boolean): { cuts: Cut[]; version: number }
}

/** Different cuts noted for one index, and rejected CIDs remembered for one index. */
const SPARES = 3
const REJECTED = 16

/** Versions start at `base`, which differs between two lives of a coordinator's book. */
export function createCutLog(base: number): CutLog {
  let first = base
  let log: (Cut | undefined)[] = []
  const current = new Map<number, { cut: Cut; version: number }>()
  const spares = new Map<number, Cut[]>()
  const rejected = new Map<number, Set<string>>()
  const liars = new Set<PeerId>()

  function bad(cut: Cut): boolean {
    return liars.has(cut.seeder) || rejected.get(cut.index)?.has(cut.cid) === true
  }

  function record(cut: Cut): void {
    // Only rejections leave dead entries behind; when they prevail, every asker is told all anew.
    if (log.length > 2 * current.size + 1024) {
      first += log.length + 1
      const alive = [...current.values()].map((entry) => entry.cut)
      log = alive
      alive.forEach((old, at) => {
        current.set(old.index, { cut: old, version: first + at + 1 })
      })
    }
    log.push(cut)
    current.set(cut.index, { cut, version: first + log.length })
  }

  function drop(index: number): Cut | undefined {
    const old = current.get(index)
    if (old === undefined) return undefined
    current.delete(index)
    log[old.version - first - 1] = undefined
    const follower = spares.get(index)?.find((cut) => !bad(cut))
    if (follower !== undefined) record(follower)
    return old.cut
  }

  function doubt(index: number, cid: string): void {
    const cids = rejected.get(index) ?? new Set()
    if (cids.size < REJECTED) cids.add(cid)
    rejected.set(index, cids)
  }

  return {
    add(cut) {
      if (bad(cut)) return false
      const known = current.get(cut.index)?.cut
      if (known === undefined) {
        record(cut)
        return true
      }
      if (known.cid !== cut.cid) {
        const noted = spares.get(cut.index) ?? []
        if (noted.length < SPARES && !noted.some((other) => other.cid === cut.cid)) noted.push(cut)
        spares.set(cut.index, noted)
      }
      return false
    },
    get: (index) => current.get(index)?.cut,
    reject(index, cid) {
      doubt(index, cid)
      return current.get(index)?.cut.cid === cid ? drop(index) : undefined
    },
    shun(seeder) {
      liars.add(seeder)
      const lost = [...current.values()].filter((entry) => entry.cut.seeder === seeder)
      for (const { cut } of lost) {
        doubt(cut.index, cut.cid)
        drop(cut.index)
      }
      return lost.map((entry) => entry.cut.index)
    },
    shunned: (seeder) => liars.has(seeder),
    doubted: (index) => rejected.has(index),
    versionOf: (index) => current.get(index)?.version ?? Number.POSITIVE_INFINITY,
    indexes: () => current.keys(),
    get version() {
      return first + log.length
    },
    issued: (version) => version >= first && version <= first + log.length,
    since(version, limit, skip) {
      const cuts: Cut[] = []
      let at = Math.max(0, Math.min(version - first, log.length))
      for (; at < log.length && cuts.length < limit; at++) {
        const cut = log[at]
        if (cut !== undefined && !skip(cut.index)) cuts.push(cut)
      }
      return { cuts, version: first + at }
    },
  }
}
