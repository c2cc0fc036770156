import { createHash, randomBytes } from 'node:crypto'
import { yamux } from '@chainsafe/libp2p-yamux'
import type { Libp2p, Stream } from '@libp2p/interface'
import { tcp } from '@libp2p/tcp'
import { tls } from '@libp2p/tls'
import { createLibp2p } from 'libp2p'
import { ShoalError } from '../../base/index.ts'
import { cidOfHash } from '../../blockstore/cid.ts'

/** A bare libp2p node on loopback. */
export async function startNode(): Promise<Libp2p> {
  return await createLibp2p({
    addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
    transports: [tcp()],
    connectionEncrypters: [tls()],
    streamMuxers: [
      yamux({
        enableKeepAlive: false,
        maxEarlyStreams: 1024,
        streamOptions: { maxStreamWindowSize: 4 << 20, maxReadBufferLength: 4 << 20 },
      }),
    ],
    connectionMonitor: { enabled: false },
  })
}

/** `count` nodes, all connected to the first one. The caller stops them. */
export async function startNodes(count: number): Promise<Libp2p[]> {
  const nodes = await Promise.all(Array.from({ length: count }, startNode))
  const [first, ...others] = nodes as [Libp2p, ...Libp2p[]]
  await Promise.all(others.map((node) => node.dial(first.getMultiaddrs())))
  // The dialler is done a moment before the one who was dialled.
  await until(() => first.getConnections().length === others.length)
  return nodes
}

export const idOf = (node: Libp2p): string => node.peerId.toString()

/** A block store in memory. */
export function memoryBlocks() {
  const blocks = new Map<string, Buffer>()
  return {
    blocks,
    add(length: number): { cid: string; bytes: Buffer } {
      const bytes = randomBytes(length)
      const cid = cidOfHash(createHash('sha256').update(bytes).digest())
      blocks.set(cid, bytes)
      return { cid, bytes }
    },
    async provide(cid: string, _signal: AbortSignal, into?: Buffer): Promise<Buffer> {
      await new Promise((resolve) => setImmediate(resolve))
      const bytes = blocks.get(cid)
      if (!bytes) throw new ShoalError('BLOCK_MISSING', 'not here')
      if (!into || into.length < bytes.length) return Buffer.from(bytes)
      bytes.copy(into)
      return into.subarray(0, bytes.length)
    },
  }
}

/** Resolves when `condition` holds; the test's own time-out ends a vain wait. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5))
}

/** All that a raw stream has received so far, and whether it was closed. */
export function record(stream: Stream): { bytes: () => Buffer; closed: () => boolean } {
  const parts: Buffer[] = []
  let closed = false
  stream.addEventListener('message', ({ data }) => parts.push(Buffer.from(data.subarray())))
  stream.addEventListener('close', () => {
    closed = true
  })
  return { bytes: () => Buffer.concat(parts), closed: () => closed }
}
