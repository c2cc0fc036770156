import type { IncomingMessage } from 'node:http'
import { createTurns, type Digest, isShoalError, type Log, ShoalError } from '../../base/index.ts'
import type { BlockStore } from '../../blockstore/types.ts'
import type { Manager, Origin, Storing } from '../../manager/types.ts'
import type { Images } from '../images.ts'
import type { LocalRepository, Present } from '../local/index.ts'
import type { Exchange } from '../registry/exchange.ts'
import { refusal } from '../registry/failure.ts'
import { LOCAL_HOST } from '../registry/names.ts'
import type { Route } from '../registry/route.ts'
import { createServeUploads } from './blobs.ts'
import { createHolding } from './holding.ts'
import { type AckPolicy, createKeeping } from './keeping.ts'
import { createPutManifest, imageName } from './manifests.ts'
import { createUploads } from './uploads.ts'

export type { AckPolicy } from './keeping.ts'

/** Uploads under way at the same time; each is a file and some hundred bytes of memory. */
const MAX_UPLOADS = 256
const MAX_BLOB = 16 * 2 ** 30

export interface PushConfig {
  /** Where uploads are while they come; what is in there at the start is removed. */
  dir: string
  /** Larger blobs are refused. Default 16 GiB. */
  maxBlob?: number
  maxUploads?: number
}

/** The push side of the distribution spec v1.1. */
export interface Push {
  start(): Promise<void>
  /** Answers what changes something, and all under `blobs/uploads/`. @throws what `registry/failure.ts` turns into an answer */
  serve(exchange: Exchange, route: Route): Promise<void>
  close(): Promise<void>
}

export function createPush(parts: {
  manager: Manager
  store: BlockStore
  storing: Pick<Storing, 'store' | 'forget'>
  repository: LocalRepository
  present: Present
  elsewhere: (digest: Digest) => Origin
  images: Images
  /** Throws UNAUTHORIZED or DENIED for a client that may not push. */
  authorize: (request: IncomingMessage) => void
  copies: number
  policy: AckPolicy
  config: PushConfig
  log: Log
  now: () => number
}): Push {
  const {
    manager,
    store,
    storing,
    repository,
    present,
    elsewhere,
    images,
    authorize,
    copies,
    policy,
    config,
    log,
    now,
  } = parts
  const { dir, maxBlob = MAX_BLOB, maxUploads: most = MAX_UPLOADS } = config
  const uploads = createUploads({ dir, maxBlob, most, log, now })
  const holding = createHolding({ store })
  const keeping = createKeeping({
    manager,
    store,
    storing,
    isAcknowledged,
    elsewhere,
    copies,
    policy,
    log,
  })
  const turns = createTurns()
  const serveUploads = createServeUploads({ manager, repository, present, uploads, holding })
  const putManifest = createPutManifest({ manager, repository, keeping, images, turns })

  async function isAcknowledged(image: string): Promise<boolean> {
    const at = image.indexOf('@')
    const name = image.slice('local/'.length, at)
    return (await repository.manifest(name, image.slice(at + 1) as Digest)) !== undefined
  }

  async function remove(exchange: Exchange, route: Route): Promise<void> {
    const { signal } = exchange
    let found = false
    if (route.type === 'blob') found = await repository.deleteLink(route.ref.repository, route.digest, signal)
    else if (route.type === 'manifest') {
      const name = route.ref.repository
      if ('tag' in route) found = await repository.deleteTag(name, route.tag, signal)
      else {
        const image = imageName(name, route.digest)
        found = await turns.run(image, async () => {
          const was = await repository.deleteManifest(name, route.digest, signal)
          if (was) await keeping.forget(image)
          return was
        })
      }
    } else throw notPossible(exchange)
    if (!found) throw new ShoalError('NOT_FOUND', 'there is nothing of that name')
    exchange.reply(202, {}, Buffer.alloc(0))
  }

  async function dispatch(exchange: Exchange, route: Route): Promise<void> {
    const { method } = exchange.request
    if (route.type === 'uploads' || route.type === 'upload') return serveUploads(exchange, route)
    if (method === 'DELETE') return remove(exchange, route)
    if (method === 'PUT' && route.type === 'manifest') return putManifest(exchange, route)
    throw notPossible(exchange)
  }

  return {
    async start() {
      await uploads.start()
      await keeping.resume()
    },
    async serve(exchange, route) {
      if (!('ref' in route)) throw notPossible(exchange)
      if (route.ref.host !== LOCAL_HOST) {
        const message = `${route.ref.host} is only pulled from here; what is pushed here is called local/NAME`
        throw refusal(405, 'UNSUPPORTED', message, { Allow: 'GET, HEAD' })
      }
      authorize(exchange.request)
      // A push takes as long as it takes; what stalls is ended by its own timer.
      exchange.whenLate = () => {}
      try {
        await dispatch(exchange, route)
      } catch (error) {
        if (!isShoalError(error, 'STORE_FULL')) throw error
        throw refusal(507, 'UNAVAILABLE', error.message)
      }
    },
    async close() {
      await uploads.close()
      holding.close()
      await keeping.close()
    },
  }
}

function notPossible({ request }: Exchange): ShoalError {
  return refusal(405, 'UNSUPPORTED', `${request.method} is not possible here`, { Allow: 'GET, HEAD' })
}
