import { ShoalError } from '../../base/index.ts'
import type { BlockStore } from '../../blockstore/index.ts'
import { loadConfig } from '../../cli/config.ts'
import { loadRooms } from '../../cli/load-rooms.ts'
import { createLog } from '../../cli/log.ts'
import { startDaemon } from '../../cli/serve.ts'
import type { OriginAnswer } from '../../manager/index.ts'
import type { Upstream } from '../../proxy/index.ts'
import { settingsOf } from './flags.ts'

/**
 * How a member with the cluster key misbehaves. `corrupt`: sends other bytes than the block's; `missing`: has not what it
 * announces; `stall`: takes requests and never answers; `forge`: seeds other bytes than upstream's, and signs them.
 */
export type Lie = 'corrupt' | 'missing' | 'stall' | 'forge'

/** A daemon's store whose reads lie once `lying()`: by then it holds, and has announced, what it pulled honestly. */
function lyingStore(store: BlockStore, lie: Lie, lying: () => boolean): BlockStore {
  return {
    ...store,
    async read(cid, options) {
      const bytes = await store.read(cid, options)
      if (!lying()) return bytes
      if (lie === 'missing') throw new ShoalError('BLOCK_MISSING', 'it was never here')
      if (lie === 'stall') return await new Promise<Buffer>(() => {})
      if (lie === 'corrupt') bytes[bytes.length >> 1]! ^= 0xff
      return bytes
    },
  }
}

async function* forged(body: AsyncIterable<Uint8Array>): AsyncIterable<Uint8Array> {
  let seen = 0
  for await (const chunk of body) {
    // One byte in every 100,000: every block is wrong, whatever the cut.
    for (let i = 99_999 - (seen % 100_000); i < chunk.length; i += 100_000) chunk[i]! ^= 0xff
    seen += chunk.length
    yield chunk
  }
}

function lyingUpstream(upstream: Upstream): Upstream {
  return {
    ...upstream,
    origin(ref, kind, digest, credential) {
      const origin = upstream.origin(ref, kind, digest, credential)
      if (kind === 'manifests') return origin
      return {
        ...origin,
        async fetch(range, signal): Promise<OriginAnswer> {
          const answer = await origin.fetch(range, signal)
          return { ...answer, body: forged(answer.body) }
        },
      }
    },
  }
}

// Run as a process: liar.ts LIE --flag value … (those of `shoal serve`); it begins to lie at SIGUSR2.
if (import.meta.main) {
  const [lie, ...args] = process.argv.slice(2)
  const settings = settingsOf(args)
  let lying = false
  process.on('SIGUSR2', () => {
    lying = true
  })
  const config = await loadConfig({ flags: settings, env: {}, file: undefined })
  const rooms = await loadRooms()
  const daemon = await startDaemon(config, {
    log: await createLog('info'),
    version: 'liar',
    rooms: {
      ...rooms,
      openStore: async (parts) => lyingStore(await rooms.openStore(parts), lie as Lie, () => lying),
      createUpstream: async (parts) => {
        const upstream = await rooms.createUpstream(parts)
        return lie === 'forge' ? lyingUpstream(upstream) : upstream
      },
    },
  })
  process.on('SIGTERM', () => void daemon.close().then(() => process.exit(0)))
}
