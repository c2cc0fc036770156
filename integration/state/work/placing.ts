import { writeSync } from 'node:fs'
import { PAGE } from '../form/limits.ts'
import type { Addresses } from './order.ts'

/** Pages from the lowest address that is not written yet to the highest that is kept. */
const WINDOW = 2048
/** As many are gathered before they are written. */
const STEP = 256
/** Bytes that are written as they come: to gather them gains nothing. */
const LONG = 64 * 1024

/**
 * Gathers pages that come nearly in the order of the files, and writes them in as few calls as there are gaps between them: a call
 * costs as much as ten pages do. What comes further ahead than the window, or is no whole page, is written by itself.
 */
export interface Placing {
  /** Nothing comes for any address below this one any more. */
  advance(to: number): void
  put(file: number, offset: number, bytes: Buffer, from: number, to: number): void
  /** Writes what is left. */
  finish(): void
  /** Bytes written. */
  readonly written: number
}

export function createPlacing({
  addresses,
  fdOf,
}: {
  addresses: Addresses
  fdOf: (file: number) => number
}): Placing {
  /** The page of an address is at its number modulo WINDOW; so is whether it is there. */
  const window = Buffer.allocUnsafeSlow(WINDOW * PAGE)
  const isThere = new Uint8Array(WINDOW)
  let low = 0
  let written = 0

  function write(fd: number, bytes: Uint8Array, from: number, to: number, offset: number): void {
    for (let at = from; at < to; ) at += writeSync(fd, bytes, at, to - at, offset + at - from)
    written += to - from
  }

  /** Neighbours in the window; they may belong to several files. */
  function writePages(first: number, count: number): void {
    for (let page = first; page < first + count; ) {
      const { file, offset, left } = addresses.at(page * PAGE)
      const pages = Math.min(first + count - page, left / PAGE)
      const at = (page % WINDOW) * PAGE
      write(fdOf(file), window, at, at + pages * PAGE, offset)
      page += pages
    }
  }

  function flush(to: number): void {
    for (let page = low, end = Math.min(to, low + WINDOW); page < end; ) {
      const slot = page % WINDOW
      let count = 0
      while (page + count < end && slot + count < WINDOW && isThere[slot + count] === 1)
        isThere[slot + count++] = 0
      if (count > 0) writePages(page, count)
      page += Math.max(1, count)
    }
    low = to
  }

  return {
    get written() {
      return written
    },
    advance(to) {
      const page = Math.floor(to / PAGE)
      if (page - low >= STEP) flush(page)
    },
    put(file, offset, bytes, from, to) {
      const start = addresses.of(file, offset)
      const length = to - from
      const first = start / PAGE
      const pages = length / PAGE
      const isWhole = Number.isInteger(first) && Number.isInteger(pages)
      if (length >= LONG || !isWhole || first + pages > low + WINDOW) {
        write(fdOf(file), bytes, from, to, offset)
        return
      }
      for (let i = 0; i < pages; i++) {
        const slot = (first + i) % WINDOW
        bytes.copy(window, slot * PAGE, from + i * PAGE, from + (i + 1) * PAGE)
        isThere[slot] = 1
      }
    },
    finish: () => flush(low + WINDOW),
  }
}
