import type { Digest } from '../../base/index.ts'
import { createPutEverywhere } from '../../manager/records/index.ts'
import type { Membership, SharedRecord, SharedRecords } from '../../manager/types.ts'
import type { LocalRepository, LocalTag } from './types.ts'
import { readDigest, readLink, readManifestRecord } from './values.ts'

const tagKey = (repository: string, tag: string): string => `tag/${repository}:${tag}`
const manifestKey = (repository: string, digest: Digest): string => `manifest/${repository}@${digest}`
/** A link that no manifest needs stays so long after it was made or renewed; it is renewed when half of that has gone by. */
const LINK_MS = 24 * 3_600_000
const linkKey = (repository: string, digest: Digest): string => `link/${repository}@${digest}`

/** `copies`: how many nodes must have a record before a write of it counts; all that are there are waited for as well. */
export function createLocalRepository(parts: {
  records: SharedRecords
  members: Pick<Membership, 'list' | 'self'>
  copies: number
  now?: () => number
  /** Default a day. */
  linkMs?: number
}): LocalRepository {
  const { records, members, copies, now = Date.now, linkMs = LINK_MS } = parts
  const put = createPutEverywhere({ records, members })

  async function remove(key: string, signal: AbortSignal): Promise<boolean> {
    if ((await records.get(key))?.value === undefined) return false
    await put(key, undefined, copies, signal)
    return true
  }

  async function any(prefix: string): Promise<boolean> {
    for await (const _ of records.entries(prefix)) return true
    return false
  }

  /** Whoever counts on a link that is getting old keeps it from being swept. */
  async function renew(known: SharedRecord | undefined, size: number): Promise<void> {
    if (known && (known.value === undefined || now() - known.stamp.ms > linkMs / 2)) {
      await records.put(known.key, { size }, { copies: 1 })
    }
  }

  /** Blobs of a repository that its manifests name, with their sizes. */
  async function namedIn(name: string): Promise<Map<Digest, number>> {
    const named = new Map<Digest, number>()
    for await (const [, { parts: blobs }] of repository.manifests(name)) {
      for (const { digest, size } of blobs) named.set(digest, size)
    }
    return named
  }

  /** Takes back the links that are old and that nothing needs, repository by repository. */
  async function unlink(): Promise<void> {
    const old = new Map<string, string[]>()
    for await (const { key, stamp } of records.entries('link/')) {
      if (now() - stamp.ms <= linkMs) continue
      const name = key.slice('link/'.length, key.lastIndexOf('@'))
      const keys = old.get(name) ?? []
      old.set(name, keys)
      keys.push(key)
    }
    for (const name of await repository.repositories()) {
      for (const [digest, size] of await namedIn(name)) {
        const known = await records.get(linkKey(name, digest))
        // Taken back at the same time as it was made: such a link must outlive the memory of that.
        if (known?.value === undefined && linkOf(known) === size) await renew(known, size)
      }
    }
    for (const [name, keys] of old) {
      const named = await namedIn(name)
      for (const key of keys) {
        if (named.has(key.slice(key.lastIndexOf('@') + 1) as Digest)) continue
        // Somebody may have come to count on it since.
        const known = await records.get(key)
        if (known?.value !== undefined && now() - known.stamp.ms > linkMs) {
          await records.put(key, undefined, { copies: 1 })
        }
      }
    }
  }

  async function* tags(repository: string, after?: string): AsyncGenerator<LocalTag> {
    const prefix = tagKey(repository, '')
    for await (const record of records.entries(prefix)) {
      const name = record.key.slice(prefix.length)
      const digest = readDigest(record.value)
      if (digest === undefined || (after !== undefined && name <= after)) continue
      yield { name, digest, stamp: record.stamp, beaten: beatenOf(record) }
    }
  }

  const repository: LocalRepository = {
    async tag(name, tag) {
      return readDigest((await records.get(tagKey(name, tag)))?.value)
    },
    tags,
    async manifest(name, digest) {
      return readManifestRecord((await records.get(manifestKey(name, digest)))?.value)
    },
    async *manifests(name, after) {
      const prefix = `manifest/${name}@`
      for await (const { key, value } of records.entries(prefix)) {
        const digest = readDigest(key.slice(prefix.length))
        if (digest !== undefined && after !== undefined && digest <= after) continue
        const manifest = readManifestRecord(value)
        if (digest !== undefined && manifest !== undefined) yield [digest, manifest]
      }
    },
    link: async (name, digest) => linkOf(await records.get(linkKey(name, digest))),
    async exists(name) {
      for (const prefix of [`link/${name}@`, `manifest/${name}@`, `tag/${name}:`]) {
        if (await any(prefix)) return true
      }
      return false
    },
    async repositories() {
      const names = new Set<string>()
      for await (const { key } of records.entries('manifest/')) {
        names.add(key.slice('manifest/'.length, key.lastIndexOf('@')))
      }
      return [...names].sort()
    },
    putTag: (name, tag, digest, signal) => put(tagKey(name, tag), digest, copies, signal),
    putManifest: (name, digest, manifest, signal) => put(manifestKey(name, digest), manifest, copies, signal),
    async putLink(name, digest, size, signal) {
      const known = await records.get(linkKey(name, digest))
      if (linkOf(known) === undefined) await put(linkKey(name, digest), { size }, copies, signal)
      else await renew(known, size)
    },
    async renewLink(name, digest, size) {
      const known = await records.get(linkKey(name, digest))
      if (linkOf(known) === size) await renew(known, size)
    },
    async sweep() {
      // One node is enough for all of the cluster.
      const [first] = members
        .list()
        .filter(({ state }) => state === 'alive')
        .map(({ id }) => id)
        .sort()
      if (first === members.self.id) await unlink()
    },
    deleteTag: (name, tag, signal) => remove(tagKey(name, tag), signal),
    async deleteManifest(name, digest, signal) {
      // The tags first: a tag must not name what is not there.
      const naming: string[] = []
      for await (const tag of tags(name)) if (tag.digest === digest) naming.push(tag.name)
      for (const tag of naming) await remove(tagKey(name, tag), signal)
      return remove(manifestKey(name, digest), signal)
    },
    deleteLink: (name, digest, signal) => remove(linkKey(name, digest), signal),
  }
  return repository
}

/** A link that was made at the same time as it was taken back stays: who made it counts on it. */
function linkOf(record: SharedRecord | undefined): number | undefined {
  const values = record ? [record.value, ...record.beaten.map(({ value }) => value)] : []
  return values.map(readLink).find((size) => size !== undefined)
}

function beatenOf({ beaten }: SharedRecord): LocalTag['beaten'] {
  return beaten.map(({ value, stamp }) => ({ digest: readDigest(value), stamp }))
}
