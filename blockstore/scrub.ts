import { createHash } from 'node:crypto'
import { errnoOf } from '../base/index.ts'
import { cidOfHash } from './cid.ts'
import { createDirectReader, type DirectReader } from './direct.ts'
import { aborted, isNoSpace, throwIfAborted } from './faults.ts'
import type { Stamp } from './files.ts'
import { BLOCKS, blockKey, decodeBlock } from './keys.ts'
import { pages } from './pages.ts'
import type { Removal } from './removal.ts'
import type { StoreState } from './state.ts'
import type { BlockStore, Cid, Scrubbed } from './types.ts'

/** A file that changes while it is looked at is looked at again this often; then it is left to the next scrub. */
const ATTEMPTS = 3

type Finding = 'good' | 'gone' | { why: string; seen: Stamp | undefined }

/**
 * Looks at all blocks in the order of their files. What this process has verified before counts for nothing here, and a
 * block that is looked at does not count as used.
 */
export function createScrub({
  state,
  removal,
}: {
  state: StoreState
  removal: Removal
}): BlockStore['scrub'] {
  const { index, files, totals, log, dir } = state

  /** A block that was evicted a moment ago is not missed. */
  async function missing(cid: Cid): Promise<Finding> {
    return (await index.has(blockKey(cid))) ? { why: 'no file', seen: undefined } : 'gone'
  }

  async function look(cid: Cid, size: number, reader: DirectReader): Promise<Finding> {
    const seen = files.stamp(cid)
    if (seen === undefined) return missing(cid)
    if (seen.size !== size) return { why: `${seen.size} bytes instead of ${size}`, seen }
    const hash = createHash('sha256')
    try {
      if (!(await reader.read(files.pathOf(cid), (bytes) => hash.update(bytes)))) return await missing(cid)
    } catch (error) {
      if (errnoOf(error) !== 'EIO') throw error
      return { why: 'the disk cannot read it', seen }
    }
    return cidOfHash(hash.digest()) === cid ? 'good' : { why: 'other bytes than its CID names', seen }
  }

  /** True when the block was bad, and was dropped. */
  async function check(cid: Cid, size: number, reader: DirectReader): Promise<boolean> {
    for (let n = 0; n < ATTEMPTS; n++) {
      const found = await look(cid, size, reader)
      if (typeof found === 'string') return false
      try {
        if (!(await removal.badBlock(cid, found.seen))) continue
      } catch (error) {
        // As with a read: the next look tries again to have it written down.
        if (!isNoSpace(error)) throw error
        log.warn({ cid, err: error }, 'a bad block could not be taken out of the index: the disk is full')
      }
      log.warn({ cid, why: found.why }, 'scrub: dropped a bad block')
      return true
    }
    return false
  }

  return async ({ bytesPerSecond, signal, onProgress }) => {
    const done: Scrubbed = { blocks: 0, bytes: 0, bad: 0 }
    const total = totals.bytes
    const startedAt = performance.now()
    const reader = createDirectReader()
    for await (const [key, value] of pages(index, BLOCKS)) {
      const [, , cid = '', ...ref] = key.split('/')
      if (ref.length > 0) continue
      throwIfAborted(signal)
      const { size } = decodeBlock(value)
      if (await check(cid, size, reader)) done.bad++
      done.blocks++
      done.bytes += size
      onProgress?.({ ...done, total })
      await pause(startedAt + (1000 * done.bytes) / bytesPerSecond - performance.now(), signal)
    }
    log.info({ dir, ...done }, 'scrub: looked at all blocks')
    return done
  }
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  if (ms < 1) return Promise.resolve()
  return new Promise((resolve, reject) => {
    const onAbort = (): void => {
      clearTimeout(timer)
      reject(aborted(signal))
    }
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', onAbort)
      resolve()
    }, ms)
    signal.addEventListener('abort', onAbort, { once: true })
    if (signal.aborted) onAbort()
  })
}
