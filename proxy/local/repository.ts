import { type Digest, isShoalError } from '../../base/index.ts'
import type { Membership, SharedRecord, SharedRecords } from '../../manager/types.ts'
import type { LocalRepository, LocalTag } from './types.ts'
import { readDigest, readLink, readManifestRecord } from './values.ts'

const tagKey = (repository: string, tag: string): string => `tag/${repository}:${tag}`
const manifestKey = (repository: string, digest: Digest): string => `manifest/${repository}@${digest}`
const linkKey = (repository: string, digest: Digest): string => `link/${repository}@${digest}`

/**
 * `copies`: how many nodes must have a record before a write of it counts. All that are there are waited for as well, so that a
 * push can be pulled from every one of them at once; but one that does not answer costs only time.
 */
export function createLocalRepository(parts: {
  records: SharedRecords
  members: Pick<Membership, 'list'>
  copies: number
}): LocalRepository {
  const { records, members, copies } = parts

  async function put(key: string, value: unknown, signal: AbortSignal): Promise<void> {
    const there = members.list().filter(({ state }) => state === 'alive').length
    try {
      await records.put(key, value, { copies: Math.max(copies, there), signal })
    } catch (error) {
      if (!isShoalError(error, 'NO_QUORUM')) throw error
      const { written, confirmed } = error.details
      if (written === true && Number(confirmed) >= copies) return
      // One left between the count and the write.
      if (written === true || there <= copies) throw error
      await records.put(key, value, { copies, signal })
    }
  }

  async function remove(key: string, signal: AbortSignal): Promise<boolean> {
    if ((await records.get(key))?.value === undefined) return false
    await put(key, undefined, signal)
    return true
  }

  async function any(prefix: string): Promise<boolean> {
    for await (const _ of records.entries(prefix)) return true
    return false
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
    async link(name, digest) {
      return readLink((await records.get(linkKey(name, digest)))?.value)
    },
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
    putTag: (name, tag, digest, signal) => put(tagKey(name, tag), digest, signal),
    putManifest: (name, digest, manifest, signal) => put(manifestKey(name, digest), manifest, signal),
    async putLink(name, digest, size, signal) {
      if ((await repository.link(name, digest)) === undefined)
        await put(linkKey(name, digest), { size }, signal)
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

function beatenOf({ beaten }: SharedRecord): LocalTag['beaten'] {
  return beaten.map(({ value, stamp }) => ({ digest: readDigest(value), stamp }))
}
