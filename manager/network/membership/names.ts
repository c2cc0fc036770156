import type { Member, PeerId } from '../../types.ts'

/**
 * The name to show for each member. Names should be unique in a site; where several members of a site that are not
 * dead have the same one, the longest-running keeps it and the others get the end of their peer ID behind it.
 */
export function displayNames(members: Iterable<Member>): {
  names: Map<PeerId, string>
  conflicts: { name: string; site: string; ids: PeerId[] }[]
} {
  const groups = new Map<string, Member[]>()
  const names = new Map<PeerId, string>()
  for (const member of members) {
    names.set(member.id, member.name)
    if (member.state === 'dead' || member.state === 'left') continue
    const key = `${member.site}\0${member.name}`
    const group = groups.get(key)
    if (group === undefined) groups.set(key, [member])
    else group.push(member)
  }
  const conflicts = []
  for (const group of groups.values()) {
    const [first, ...later] = group.sort(byAge)
    if (first === undefined || later.length === 0) continue
    for (const member of later) names.set(member.id, `${member.name}-${member.id.slice(-6)}`)
    conflicts.push({ name: first.name, site: first.site, ids: group.map(({ id }) => id) })
  }
  return { names, conflicts }
}

/** Incarnations start at the wall clock's time of the process's start. */
function byAge(a: Member, b: Member): number {
  return a.incarnation - b.incarnation || (a.id < b.id ? -1 : 1)
}
