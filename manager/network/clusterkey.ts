import { createHash, randomBytes } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { errnoOf, ShoalError } from '../../base/index.ts'
import { readOrCreateSecret } from './secretfile.ts'

const MIN_BITS = 128
const MAX_BYTES = 4096

export interface ClusterKey {
  /** 32 bytes for HMACs, derived from the file. */
  key: Buffer
  path: string
  /** True on the first start without a file of one's own. */
  created: boolean
}

/**
 * The secret that admits a node to its cluster: `file`, or else `cluster.key` in the data directory, which is made on the
 * first start. So a lone node is closed to everybody, and a cluster is formed by copying that file. White space around
 * the key does not count.
 *
 * @throws CONFIG when the file is missing, empty, too large, or so regular that it could be guessed
 */
export async function loadClusterKey(options: { directory: string; file?: string }): Promise<ClusterKey> {
  const { directory, file } = options
  if (file !== undefined) return { key: derive(await readGiven(file), file), path: file, created: false }
  const path = join(directory, 'cluster.key')
  const { content, created } = await readOrCreateSecret(path, () => `${randomBytes(32).toString('base64')}\n`)
  return { key: derive(content, path), path, created }
}

async function readGiven(path: string): Promise<Buffer> {
  try {
    return await readFile(path)
  } catch (error) {
    throw new ShoalError(
      'CONFIG',
      `cannot read the cluster key ${path}: ${errnoOf(error) ?? String(error)}`,
      {
        cause: error,
      },
    )
  }
}

function derive(content: Buffer, path: string): Buffer {
  // One letter a byte, so that binary keys are trimmed and counted alike.
  const text = content.toString('latin1').trim()
  const advice = 'make one with: head -c 32 /dev/urandom | base64'
  if (text.length === 0) throw new ShoalError('CONFIG', `the cluster key ${path} is empty; ${advice}`)
  if (text.length > MAX_BYTES) {
    throw new ShoalError('CONFIG', `the cluster key ${path} is longer than ${MAX_BYTES} bytes; ${advice}`)
  }
  const bits = Math.floor(entropyBits(text))
  if (bits < MIN_BITS) {
    throw new ShoalError(
      'CONFIG',
      `the cluster key ${path} is too easy to guess (about ${bits} bits, at least ${MIN_BITS} are needed); ${advice}`,
    )
  }
  return createHash('sha256').update('shoal-cluster-key').update(Buffer.from(text, 'latin1')).digest()
}

/** Shannon's entropy of the letters, times their number: an upper bound that catches short and repetitive keys. */
function entropyBits(text: string): number {
  const counts = new Map<string, number>()
  for (const letter of text) counts.set(letter, (counts.get(letter) ?? 0) + 1)
  let bits = 0
  for (const count of counts.values()) bits -= count * Math.log2(count / text.length)
  return bits
}
