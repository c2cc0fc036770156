import { type Digest, ShoalError } from '../../base/index.ts'
import type { Ask } from '../registry/ask.ts'
import type { Exchange } from '../registry/exchange.ts'
import { OCI_INDEX } from '../registry/media.ts'
import type { Page } from '../registry/route.ts'
import type { LocalRepository } from './types.ts'

/** So many tags come at once; who wants more follows the Link. */
const MAX_TAGS = 10_000
/** Referrers that come at once: a page stays well below the 4 MiB that clients take. */
const MAX_REFERRERS_BYTES = 2 ** 20

/** Answers `tags/list` of a local repository: in the order of their bytes, `n` at a time, after `last`. */
export function createServeLocalTags(parts: { repository: LocalRepository }) {
  const { repository } = parts
  return async (exchange: Exchange, { ref }: Ask, page: Page): Promise<void> => {
    const name = ref.repository
    const given = page.query.get('n')
    if (given !== null && !/^\d{1,9}$/.test(given)) {
      throw new ShoalError('USAGE', 'n is not a number of tags')
    }
    const n = Math.min(MAX_TAGS, given === null ? MAX_TAGS : Number(given))
    const tags: string[] = []
    for await (const tag of repository.tags(name, page.query.get('last') ?? undefined)) {
      // A manifest may have been deleted elsewhere while the tag was written.
      if (!(await repository.manifest(name, tag.digest))) continue
      tags.push(tag.name)
      if (tags.length > n) break
    }
    if (tags.length === 0 && !(await repository.exists(name))) {
      throw new ShoalError('NOT_FOUND', `nothing was pushed to local/${name}`)
    }
    const shown = tags.slice(0, Math.min(n, tags.length))
    const more = shown.length > 0 && shown.length < tags.length
    exchange.reply(
      200,
      {
        'Content-Type': 'application/json',
        'X-Shoal-Source': 'local',
        ...(more ? nextLink(page, { n: String(n), last: shown.at(-1) ?? '' }) : {}),
      },
      Buffer.from(JSON.stringify({ name: nameShown(name, page), tags: shown })),
    )
  }
}

function nextLink(page: Page, query: Record<string, string>): { Link: string } {
  const whole = new URLSearchParams({ ...query, ...(page.ns === undefined ? {} : { ns: page.ns }) })
  return { Link: `<${page.path}?${whole}>; rel="next"` }
}

/** As the client wrote it, which is what its path says. */
function nameShown(name: string, page: Page): string {
  return page.ns === undefined ? `local/${name}` : name
}

/** Answers `referrers/DIGEST`: what was pushed with this subject. What nobody refers to is an empty index. */
export function createServeLocalReferrers(parts: { repository: LocalRepository }) {
  const { repository } = parts
  return async (exchange: Exchange, { ref }: Ask, subject: Digest, page: Page): Promise<void> => {
    const wanted = page.query.get('artifactType')
    const after = page.query.get('last') ?? undefined
    const manifests: Record<string, unknown>[] = []
    let last: Digest | undefined
    let bytes = 0
    let more = false
    for await (const [digest, manifest] of repository.manifests(ref.repository, after)) {
      if (manifest.subject !== subject) continue
      const { mediaType, size, artifactType, annotations } = manifest
      if (wanted !== null && artifactType !== wanted) continue
      more = bytes > MAX_REFERRERS_BYTES
      if (more) break
      const descriptor = {
        mediaType,
        digest,
        size,
        ...(artifactType === undefined ? {} : { artifactType }),
        ...(annotations === undefined ? {} : { annotations }),
      }
      manifests.push(descriptor)
      bytes += JSON.stringify(descriptor).length
      last = digest
    }
    const filter = wanted === null ? {} : { artifactType: wanted }
    exchange.reply(
      200,
      {
        'Content-Type': OCI_INDEX,
        'X-Shoal-Source': 'local',
        ...(wanted === null ? {} : { 'OCI-Filters-Applied': 'artifactType' }),
        ...(more && last !== undefined ? nextLink(page, { ...filter, last }) : {}),
      },
      Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: OCI_INDEX, manifests })),
    )
  }
}
