import { createServer } from 'node:http'
import { json } from 'node:stream/consumers'
import type { Digest } from '../../base/index.ts'
import type { BlockStore } from '../../blockstore/index.ts'
import { loadConfig } from '../../cli/config.ts'
import { loadRooms } from '../../cli/load-rooms.ts'
import { createLog } from '../../cli/log.ts'
import { startDaemon } from '../../cli/serve.ts'
import type { Manager, StoredBlob } from '../../manager/index.ts'
import type { Upstream } from '../../proxy/index.ts'
import { settingsOf } from './flags.ts'

/** Where a `storer` takes orders, on its host's loopback. */
export const ORDERS = 'http://127.0.0.1:5099'

interface Order {
  repository: string
  tag: string
  copies: number
}

/** An image that upstream has, for one platform: its manifest, config and layers. */
async function contentsOf(registry: string, { repository, tag }: Order): Promise<StoredBlob[]> {
  const headers = { accept: 'application/vnd.oci.image.manifest.v1+json' }
  const answer = await fetch(`${registry}/v2/docker.io/${repository}/manifests/${tag}`, { headers })
  const text = await answer.text()
  const manifest = JSON.parse(text)
  const digest = answer.headers.get('docker-content-digest') as Digest
  const parts: StoredBlob[] = [manifest.config, ...manifest.layers]
  return [
    { digest, size: Buffer.byteLength(text), mediaType: answer.headers.get('content-type') ?? '' },
    ...parts.map((part) => ({ digest: part.digest, size: part.size })),
  ]
}

// Run as a process with the flags of `shoal serve`: a daemon like that one, which stores and repairs when told over HTTP.
if (import.meta.main) {
  const config = await loadConfig({ flags: settingsOf(process.argv.slice(2)), env: {}, file: undefined })
  const rooms = await loadRooms()
  let manager: Manager | undefined
  let upstream: Upstream | undefined
  let store: BlockStore | undefined
  const daemon = await startDaemon(config, {
    log: await createLog('info'),
    version: 'storer',
    rooms: {
      ...rooms,
      createUpstream: async (parts) => (upstream = await rooms.createUpstream(parts)),
      openStore: async (parts) => (store = await rooms.openStore(parts)),
      createManager: async (parts) => (manager = await rooms.createManager(parts)),
    },
  })
  const { host, port } = daemon.addresses.registry

  async function perform(path: string, order: Order): Promise<unknown> {
    const storing = manager!.storing
    if (path === '/list') return storing.list()
    if (path === '/gc') return store!.collect(undefined, { all: true })
    if (path === '/repair') return storing.repair({ now: true, signal: AbortSignal.timeout(120_000) })
    const blobs = await contentsOf(`http://${host}:${port}`, order)
    const { repository, tag, copies } = order
    await storing.store(
      { name: `docker.io/${repository}:${tag}`, digest: blobs[0]!.digest, copies, blobs, anonymous: true },
      {
        origin: ({ digest }) =>
          upstream!.origin(
            { host: 'docker.io', repository },
            digest === blobs[0]!.digest ? 'manifests' : 'blobs',
            digest,
            { kind: 'node' },
          ),
        signal: AbortSignal.timeout(180_000),
      },
    )
    return {}
  }

  createServer((request, response) => {
    json(request)
      .then((order) => perform(request.url ?? '', order as Order))
      .then(
        (answer) => response.end(JSON.stringify(answer)),
        (error) => response.writeHead(500).end(String(error)),
      )
  }).listen(Number(new URL(ORDERS).port), '127.0.0.1')
  process.on('SIGTERM', () => void daemon.close().then(() => process.exit(0)))
}
