import { createHash, type Hash } from 'node:crypto'
import { closeSync, openSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import type { Digest } from '../../../base/index.ts'
import { packFrame } from '../form/frames.ts'
import { FRAME, PACK_PAGES, PAGE } from '../form/limits.ts'
import type { Pack } from '../form/recipe.ts'

/** A pack that was written to a file of its own. */
export interface WrittenPack extends Pack {
  size: number
  path: string
}

/** Gathers pages into frames, and frames into packs, each in a file below `dir`. */
export interface PackWriter {
  /** Takes a page; what it is short of is zeros. */
  add(page: Uint8Array): void
  /** It takes no more pages: `finish` it. */
  isFull(): boolean
  /** Ends the pack begun, if there is one. */
  finish(): WrittenPack | undefined
  /** Removes what is not finished. */
  discard(): void
}

export function createPackWriter({
  dir,
  name,
  key,
}: {
  dir: string
  name: string
  key: Uint8Array | undefined
}): PackWriter {
  const frame = Buffer.allocUnsafeSlow(FRAME)
  let filled = 0
  let count = 0
  let open:
    | { fd: number; path: string; hash: Hash; pages: number; size: number; frames: number[] }
    | undefined

  function begin() {
    const path = join(dir, `${name}-${count++}`)
    return {
      fd: openSync(path, 'wx', 0o600),
      path,
      hash: createHash('sha256'),
      pages: 0,
      size: 0,
      frames: [],
    }
  }

  function flush(): void {
    if (!open || filled === 0) return
    const packed = packFrame(frame.subarray(0, filled), key)
    for (let at = 0; at < packed.length; ) at += writeSync(open.fd, packed, at)
    open.hash.update(packed)
    open.frames.push(packed.length)
    open.size += packed.length
    filled = 0
  }

  return {
    add(page) {
      open ??= begin()
      frame.set(page, filled)
      if (page.length < PAGE) frame.fill(0, filled + page.length, filled + PAGE)
      filled += PAGE
      open.pages++
      if (filled === FRAME) flush()
    },
    isFull: () => open?.pages === PACK_PAGES,
    finish() {
      flush()
      if (!open) return undefined
      const { fd, path, hash, pages, size, frames } = open
      open = undefined
      closeSync(fd)
      return {
        path,
        size,
        pages,
        frames: Uint32Array.from(frames),
        digest: `sha256:${hash.digest('hex')}` as Digest,
      }
    },
    discard() {
      if (!open) return
      closeSync(open.fd)
      rmSync(open.path, { force: true })
      open = undefined
      filled = 0
    },
  }
}
