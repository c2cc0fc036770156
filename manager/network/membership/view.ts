import type { Log } from '../../../base/index.ts'
import type { Member, PeerId } from '../../types.ts'
import { displayNames } from './names.ts'
import type { Roster } from './roster.ts'

/** The roster as others see it: sorted, with names told apart. Made anew only after a change. */
export interface View {
  self(): Member
  list(): Member[]
  site(): Member[]
  find(nameOrId: string): Member | undefined
}

export function createView(options: { roster: Roster; log: Log }): View {
  const { roster, log } = options
  const warned = new Set<string>()
  let version = -1
  let all: Member[] = []
  let site: Member[] = []

  const refresh = (): void => {
    if (roster.version === version) return
    version = roster.version
    const { names, conflicts } = displayNames([roster.self, ...roster.others()])
    warn(conflicts)
    const named = (member: Member): Member => {
      const name = names.get(member.id) ?? member.name
      return name === member.name ? member : { ...member, name }
    }
    const self = named(roster.self)
    const others = [...roster.others()].map(named).sort(bySiteAndName)
    all = [self, ...others]
    const live = all.filter((member) => member.site === self.site && isLive(member))
    site = live.sort((a, b) => (a.id < b.id ? -1 : 1))
  }

  const warn = (conflicts: ReturnType<typeof displayNames>['conflicts']): void => {
    for (const conflict of conflicts) {
      const key = JSON.stringify(conflict)
      if (warned.has(key)) continue
      warned.add(key)
      log.warn(conflict, 'several members of a site have one name; all but the first are shown with a suffix')
    }
  }

  return {
    self() {
      refresh()
      return all[0] ?? roster.self
    },
    list() {
      refresh()
      return [...all]
    },
    site() {
      refresh()
      return [...site]
    },
    find(nameOrId) {
      refresh()
      const byId = all.find((member) => member.id === nameOrId)
      if (byId !== undefined) return byId
      const named = all.filter((member) => member.name === nameOrId)
      // The own site first, then those who are there to be talked to.
      const score = (member: Member): number =>
        (member.site === roster.self.site ? 0 : 2) + (isLive(member) ? 0 : 1)
      return named.sort((a, b) => score(a) - score(b))[0]
    },
  }
}

export function isLive(member: Member): boolean {
  return member.state === 'alive' || member.state === 'suspect'
}

function bySiteAndName(a: Member, b: Member): number {
  return compare(a.site, b.site) || compare(a.name, b.name) || compare(a.id, b.id)
}

function compare(a: PeerId, b: PeerId): number {
  return a < b ? -1 : a > b ? 1 : 0
}
