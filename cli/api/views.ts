import type { Manager, Member, PeerStatus, StoredState, TaskStatus } from '../../manager/index.ts'
import type { ImageInfo, ImageView } from './types.ts'

/** A node's name, for people; the peer ID where it is not known. */
function nameOf(id: string, manager: Manager): string {
  return manager.members.find(id)?.name ?? id
}

/** One sentence part on what a task needs next: what a person looks for when a pull is slow. */
export function waitingFor(task: TaskStatus, manager: Manager): string {
  if (task.state !== 'running') return 'nothing'
  const here = task.coordinator === manager.self.id
  const coordinator = here ? undefined : manager.members.find(task.coordinator)
  if (coordinator && coordinator.state !== 'alive') {
    return `its coordinator ${coordinator.name}, which is ${coordinator.state}`
  }
  if (task.leases > 0) return task.peers > 0 ? 'upstream and peers' : 'upstream'
  if (task.peers > 0) return 'peers'
  return here
    ? 'a neighbour that has it, or upstream'
    : `an answer of its coordinator ${nameOf(task.coordinator, manager)}`
}

/** A task as the API tells it; the average rate is bytes a second since it began. */
export function taskView(task: TaskStatus, manager: Manager, now = Date.now()): Record<string, unknown> {
  const seconds = Math.max(0.001, (now - task.startedAt) / 1000)
  return {
    ...task,
    coordinatorName: nameOf(task.coordinator, manager),
    rate: Math.round((task.sources.peers + task.sources.upstream) / seconds),
    waitingFor: waitingFor(task, manager),
  }
}

export function memberView(member: Member): Record<string, unknown> {
  const { id, name, site, addrs, state, registry, api } = member
  return {
    id,
    name,
    site,
    addrs,
    state,
    ...(registry === undefined ? {} : { registry }),
    ...(api === undefined ? {} : { api }),
  }
}

export function peerView({ member, ...rest }: PeerStatus): Record<string, unknown> {
  return { ...memberView(member), ...rest }
}

/** How many members are in which state, self included. */
export function membersByState(members: Member[]): Record<Member['state'], number> {
  const count = { alive: 0, suspect: 0, dead: 0, left: 0 }
  for (const { state } of members) count[state]++
  return count
}

/** What the site stores is an image, and not what a checkpoint needs, which has its own list. */
export function isImage({ name }: StoredState): boolean {
  return !name.startsWith('checkpoints:')
}

/** A stored image: its blobs are counted, not listed. */
export function storedView({ blobs, anonymous: _, ...state }: StoredState): Record<string, unknown> {
  return { ...state, blobs: blobs.length }
}

/** An image that is here, and what the site has of it. */
export function imageView(image: ImageInfo, states: StoredState[]): ImageView {
  const { reference, digest } = image
  // The tag may have moved since: then what is stored is another image. What was pushed is stored under its digest alone.
  const called = (name: string): StoredState | undefined =>
    states.find((one) => one.name === name && one.digest === digest)
  const state = called(reference) ?? called(byDigest(reference, digest))
  return state ? withStored(image, state) : { ...image, startable: image.complete }
}

/** `HOST/REPOSITORY@DIGEST` of a reference with a tag or a digest. */
function byDigest(reference: string, digest: string): string {
  return `${reference.replace(/@.*$|:[^:/]*$/, '')}@${digest}`
}

/** The images that are here or stored in the site, by name. */
export function imageViews(images: ImageInfo[], states: StoredState[]): ImageView[] {
  const views = images.map((image) => imageView(image, states))
  const shown = new Set(
    images.flatMap(({ reference, digest }) =>
      [reference, byDigest(reference, digest)].map((name) => `${name} ${digest}`),
    ),
  )
  for (const state of states.filter(({ name, digest }) => !shown.has(`${name} ${digest}`))) {
    const { name: reference, digest, size, bytesHere, bytesKept } = state
    const complete = bytesHere >= size
    const facts = { digest, platforms: [], size, bytesHere, bytesKept, complete, pinned: false }
    views.push(withStored({ reference, ...facts, blobs: state.blobs.length }, state))
  }
  return views.sort((a, b) => (a.reference < b.reference ? -1 : 1))
}

function withStored(image: Omit<ImageView, 'startable' | 'stored'>, state: StoredState): ImageView {
  const { copies, copiesNow, bytesInSite, startable } = state
  const stored = { copies, copiesNow, bytesInSite }
  return { ...image, startable: image.complete || startable, stored }
}
