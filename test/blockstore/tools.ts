import { randomBytes } from 'node:crypto'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { type Digest, digestOf } from '../../base/index.ts'
import { type BlockStore, type BlockStoreOptions, type Cid, openBlockStore } from '../../blockstore/index.ts'

/** A directory that goes with the test. */
export async function scratch(t: TestContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'shoal-blockstore-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  return dir
}

/** An open store that is closed with the test. */
export async function storeIn(
  t: TestContext,
  dir: string,
  options: Partial<BlockStoreOptions> = {},
): Promise<BlockStore> {
  const store = await openBlockStore({ dir, ...options })
  t.after(() => store.close())
  return store
}

/** A blob's name; the store takes any, as it leaves the whole digest to its callers. */
export function blobNamed(name: string): Digest {
  return digestOf(Buffer.from(name))
}

/** Bytes that are the same for the same seed, and differ between seeds. */
export function bytesOf(seed: number, length = 1000): Buffer {
  const bytes = Buffer.alloc(length, `block ${seed} `)
  if (length >= 4) bytes.writeUInt32LE(seed)
  return bytes
}

/** Puts `count` random blocks of `length` bytes as a blob, and says that it is complete. */
export async function putBlob(
  store: BlockStore,
  digest: Digest,
  count: number,
  length = 1000,
): Promise<Cid[]> {
  const cids: Cid[] = []
  for (let i = 0; i < count; i++) {
    cids.push(await store.putSegment(digest, { offset: i * length }, randomBytes(length)))
  }
  await store.describe(digest, { size: count * length })
  await store.markComplete(digest)
  return cids
}

export function blockPath(dir: string, cid: Cid): string {
  return join(dir, 'blocks', cid.slice(-1), cid)
}

/** Names of all block files. */
export async function filesIn(dir: string): Promise<string[]> {
  const entries = await readdir(join(dir, 'blocks'), { recursive: true, withFileTypes: true })
  return entries.filter((entry) => entry.isFile()).map((entry) => entry.name)
}

export async function stagedIn(dir: string): Promise<string[]> {
  return readdir(join(dir, 'tmp'))
}

export async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = []
  for await (const item of items) list.push(item)
  return list
}

/** What the crash test of shares makes its blobs of. */
export const SHARE = { blocks: 20, length: 5000 }

/** The offsets that it keeps of each blob, first and later: each set is a part of the one before. */
export function marksOf(version: number): number[] {
  return [[], [0, 40_000, 95_000], [40_000, 95_000], []][version] ?? []
}
