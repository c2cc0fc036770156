import type { Digest, Log } from '../base/index.ts'
import { type BlobTable, newBlob, recordOp } from './blob-table.ts'
import { throwIfAborted } from './faults.ts'
import type { BlockFiles } from './files.ts'
import { recountMarks } from './kept.ts'
import type { KeyIndex, Op } from './key-index.ts'
import {
  afterAll,
  BLOCKS,
  blockKey,
  decodeBlock,
  decodeSegment,
  keptKey,
  parsePlace,
  refKey,
  SEGMENTS,
  segmentKey,
  shardOf,
} from './keys.ts'
import { PAGE, pages } from './pages.ts'
import type { Cid } from './types.ts'

export interface Swept {
  bytes: number
  blocks: number
  /** Files that no entry names: removed. */
  strays: number
  /** Blocks whose file is missing or has another size, or that no segment needs: their entries are removed. */
  lost: number
  /** Segments whose block is not indexed. */
  danglingSegments: number
}

interface Tools {
  files: BlockFiles
  index: KeyIndex
  blobs: BlobTable
  log: Log
  now: () => number
  /** The index was repaired: its batches may be there in part only. Otherwise segments and blocks agree, as one batch writes both. */
  repaired: boolean
  signal?: AbortSignal | undefined
}

/**
 * After a stop that was no `close()`: makes disk and index agree, and counts anew. Goes directory by directory, so that
 * memory holds the names of one at a time. Nobody else may use the store meanwhile.
 */
export async function sweep(tools: Tools): Promise<Swept> {
  const swept: Swept = { bytes: 0, blocks: 0, strays: 0, lost: 0, danglingSegments: 0 }
  if (tools.repaired) await dropDanglingRefs(tools)
  const onDisk = new Set(await tools.files.shards())
  for (const shard of new Set([...onDisk, ...(await indexedShards(tools.index))])) {
    throwIfAborted(tools.signal)
    await sweepShard(tools, shard, onDisk.has(shard) ? await tools.files.list(shard) : [], swept)
  }
  await recountMarks(tools)
  await sweepSegments(tools, swept)
  return swept
}

/** The directories that the index knows: one look a directory, as each look skips all of its blocks. */
async function indexedShards(index: KeyIndex): Promise<string[]> {
  const shards: string[] = []
  let from = BLOCKS
  for (;;) {
    const [key] = await index.keys({ from, to: afterAll(BLOCKS), limit: 1 })
    if (key === undefined) return shards
    const shard = key.slice(BLOCKS.length, key.indexOf('/', BLOCKS.length))
    shards.push(shard)
    from = afterAll(`${BLOCKS}${shard}/`)
  }
}

async function sweepShard(
  { files, index, log }: Tools,
  shard: string,
  names: string[],
  swept: Swept,
): Promise<void> {
  const prefix = `${BLOCKS}${shard}/`
  const strays = new Set(names)
  const ops: Op[] = []
  let block: { cid: Cid; size: number; refs: string[] } | undefined

  // A block's references follow its own entry, so it is judged when the next one's comes.
  const judge = (): void => {
    if (block === undefined) return
    const { cid, size, refs } = block
    if (refs.length > 0 && shardOf(cid) === shard && files.stamp(cid)?.size === size) {
      strays.delete(cid)
      swept.blocks++
      swept.bytes += size
      return
    }
    swept.lost++
    ops.push({ type: 'del', key: blockKey(cid) })
    for (const ref of refs) {
      const { digest, offset } = parsePlace(ref)
      ops.push(
        { type: 'del', key: refKey(cid, digest, offset) },
        { type: 'del', key: segmentKey(digest, offset) },
      )
    }
  }

  for await (const [key, value] of pages(index, prefix)) {
    const [cid = '', ...ref] = key.slice(prefix.length).split('/')
    if (ref.length === 0) {
      judge()
      block = { cid, size: decodeBlock(value).size, refs: [] }
    } else if (block?.cid === cid) {
      block.refs.push(ref.join('/'))
    } else {
      ops.push({ type: 'del', key })
    }
  }
  judge()
  await index.write(ops)
  for (const name of strays) {
    await files.removeStray(shard, name).then(
      () => swept.strays++,
      (error: unknown) => log.warn({ shard, name, err: error }, 'a stray file could not be removed'),
    )
  }
}

/** References of segments that a repaired index has lost: their blocks would never go. */
async function dropDanglingRefs({ index, signal }: Tools): Promise<void> {
  let refs: { key: string; segment: string }[] = []
  const take = async (): Promise<void> => {
    throwIfAborted(signal)
    const here = await index.hasMany(refs.map(({ segment }) => segment))
    const dangling = refs.filter((_, i) => !here[i])
    refs = []
    await index.write(dangling.map(({ key }) => ({ type: 'del', key })))
  }
  for await (const [key] of pages(index, BLOCKS)) {
    const [, , , ...ref] = key.split('/')
    if (ref.length === 0) continue
    const { digest, offset } = parsePlace(ref.join('/'))
    refs.push({ key, segment: segmentKey(digest, offset) })
    if (refs.length === PAGE) await take()
  }
  await take()
}

/** Recounts what is here of every blob, and drops segments whose block is not indexed (a repaired index may have them). */
async function sweepSegments({ index, blobs, now, repaired, signal }: Tools, swept: Swept): Promise<void> {
  for (const entry of blobs.all()) entry.bytesHere = 0
  let page: { digest: Digest; offset: number; cid: Cid; length: number }[] = []
  const take = async (): Promise<void> => {
    throwIfAborted(signal)
    const here = repaired
      ? await index.hasMany(page.map(({ digest, offset, cid }) => refKey(cid, digest, offset)))
      : undefined
    const marked = page.some(({ digest }) => (blobs.get(digest)?.marks ?? 0) > 0)
      ? await index.hasMany(page.map(({ digest, offset }) => keptKey(digest, offset)))
      : undefined
    const ops: Op[] = []
    for (const [i, { digest, offset, length }] of page.entries()) {
      if (here?.[i] === false) {
        swept.danglingSegments++
        ops.push({ type: 'del', key: segmentKey(digest, offset) })
        continue
      }
      let entry = blobs.get(digest)
      if (entry === undefined) {
        entry = newBlob(digest, now())
        blobs.add(entry)
        ops.push(recordOp(entry))
      }
      entry.bytesHere += length
      if (marked?.[i]) entry.bytesKept += length
      entry.stale = true
    }
    page = []
    await index.write(ops)
  }
  for await (const [key, value] of pages(index, SEGMENTS)) {
    const { digest, offset } = parsePlace(key.slice(SEGMENTS.length))
    const { cid, length } = decodeSegment(offset, value)
    page.push({ digest, offset, cid, length })
    if (page.length === PAGE) await take()
  }
  await take()
  const ops: Op[] = []
  for (const entry of blobs.all()) {
    if (!entry.complete || entry.bytesHere >= (entry.size ?? 0)) continue
    entry.complete = false
    ops.push(recordOp(entry))
  }
  await index.write(ops)
}
