import type { IncomingMessage } from 'node:http'
import { type Digest, ShoalError } from '../../base/index.ts'
import type { OpenBlob } from '../../manager/types.ts'
import { streamBlob } from '../registry/blobs.ts'
import type { Exchange } from '../registry/exchange.ts'
import { OCI_INDEX } from '../registry/media.ts'
import { noneMatch } from '../registry/ranges.ts'
import type { Route } from '../registry/route.ts'
import type { RepositoryRef } from '../types.ts'
import type { Hosted, HostedBlob } from './types.ts'

type Reading = Extract<Route, { type: 'manifest' | 'blob' | 'tags' | 'referrers' }>

/** Answers requests to a pseudo host. `through` serves what is a part of an upstream's repository. */
export function createServeHosted(parts: {
  hosted: Hosted
  /** Throws UNAUTHORIZED for a client without the node's token. */
  authorize: (request: IncomingMessage) => void
  through: (exchange: Exchange, ref: RepositoryRef, route: Reading) => Promise<void>
}): (exchange: Exchange, route: Reading) => Promise<void> {
  const { hosted, authorize, through } = parts

  async function manifest(exchange: Exchange, route: Extract<Reading, { type: 'manifest' }>): Promise<void> {
    const reference = 'tag' in route ? route.tag : route.digest
    const found = await hosted.manifest(route.ref.repository, reference)
    if (!found) throw none(route.ref, reference)
    if ('of' in found) return through(exchange, found.of, route)
    const headers = {
      'Docker-Content-Digest': found.digest,
      ETag: `"${found.digest}"`,
      'X-Shoal-Source': 'local',
    }
    if (noneMatch(exchange.request.headers['if-none-match'], headers.ETag)) {
      exchange.begin(304, headers)
      exchange.response.end()
      return
    }
    exchange.reply(200, { ...headers, 'Content-Type': found.mediaType }, found.bytes)
  }

  async function blob(exchange: Exchange, route: Extract<Reading, { type: 'blob' }>): Promise<void> {
    const { digest, ref } = route
    const found = await hosted.blob(ref.repository, digest)
    if (!found) throw none(ref, digest)
    if ('of' in found) return through(exchange, found.of, route)
    const common = { 'Docker-Content-Digest': digest, ETag: `"${digest}"`, 'Accept-Ranges': 'bytes' }
    if (noneMatch(exchange.request.headers['if-none-match'], common.ETag)) {
      exchange.begin(304, common)
      exchange.response.end()
    } else if (exchange.head) {
      exchange.begin(200, { ...common, 'Content-Type': found.mediaType, 'Content-Length': found.size })
      exchange.response.end()
    } else {
      await streamBlob(exchange, opened(digest, found), common)
    }
  }

  return async (exchange, route) => {
    authorize(exchange.request)
    const { ref } = route
    switch (route.type) {
      case 'manifest':
        exchange.facts.reference = 'tag' in route ? route.tag : route.digest
        return manifest(exchange, route)
      case 'blob':
        exchange.facts.reference = route.digest
        return blob(exchange, route)
      case 'tags': {
        const tags = await hosted.tags(ref.repository)
        if (tags.length === 0) throw none(ref, 'tags')
        const name = route.page.ns === undefined ? `${ref.host}/${ref.repository}` : ref.repository
        return json(exchange, 'application/json', { name, tags })
      }
      case 'referrers': {
        const wanted = route.page.query.get('artifactType')
        const manifests = (await hosted.referrers(ref.repository, route.digest)).filter(
          ({ artifactType }) => wanted === null || artifactType === wanted,
        )
        const filter = wanted === null ? {} : { 'OCI-Filters-Applied': 'artifactType' }
        return json(exchange, OCI_INDEX, { schemaVersion: 2, mediaType: OCI_INDEX, manifests }, filter)
      }
    }
  }
}

function json(exchange: Exchange, type: string, body: unknown, headers: Record<string, string> = {}): void {
  exchange.reply(
    200,
    { 'Content-Type': type, 'X-Shoal-Source': 'local', ...headers },
    Buffer.from(JSON.stringify(body)),
  )
}

/** What is made as it is read, in the form of what is here. */
function opened(digest: Digest, { size, mediaType, read }: HostedBlob): OpenBlob {
  return {
    digest,
    size,
    mediaType,
    read: ({ start, end }, signal) => read({ start, end: end ?? size }, signal),
    sources: () => ({ local: 0, peers: 0, upstream: 0 }),
    done: Promise.resolve(),
    close: () => {},
  }
}

function none({ host, repository }: RepositoryRef, what: string): ShoalError {
  return new ShoalError('NOT_FOUND', `${host}/${repository} has no ${what}`)
}
