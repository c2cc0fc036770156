import type { Board } from './board.ts'
import type { PeerId } from './types.ts'

/** A look found nothing to ask of it, and nothing has changed since. */
export const IDLE = 1
/** It had no room for a block when last looked at. */
export const FULL = 2

/** A peer of one task, and what it is believed to have. */
export interface Source {
  readonly id: PeerId
  /** All that is believed, as 32-bit words, bit i of word i >> 5. */
  words: Uint32Array
  /** What it said itself, block by block: not taken back by a coordinator's older snapshot. */
  own: Uint32Array
  /** Its place in `list` and `skip`. */
  slot: number
  /** Of the present turn: bytes that may be asked, and when one block more would be here. */
  room: number
  expectMs: number
}

export interface Sources {
  readonly list: readonly Source[]
  /** By slot, why a source is not worth a look: a sum of IDLE and FULL. In one array, as it is read at every turn. */
  readonly skip: Uint8Array
  get(id: PeerId): Source | undefined
  /** What is known second-hand of all that the peer has; takes the place of the last such word. */
  snapshot(id: PeerId, have: Uint8Array): void
  /** The peer itself says that it has the block. */
  add(id: PeerId, index: number): void
  /** The peer has it not, whoever said so. */
  deny(id: PeerId, index: number): void
  drop(id: PeerId): void
  /** The block can be asked for from now on: who has it is worth a look. */
  freed(index: number): void
}

export function offers(source: Source, index: number): boolean {
  return (((source.words[index >>> 5] ?? 0) >>> (index & 31)) & 1) === 1
}

/** Keeps the board's rarities. */
export function createSources(board: () => Board): Sources {
  const byId = new Map<PeerId, Source>()
  const list: Source[] = []
  let skip = new Uint8Array(16)

  function of(id: PeerId): Source {
    let source = byId.get(id)
    if (source === undefined) {
      const none = new Uint32Array(0)
      source = { id, words: none, own: none, slot: list.length, room: 0, expectMs: 0 }
      byId.set(id, source)
      list.push(source)
      if (list.length > skip.length) {
        const larger = new Uint8Array(skip.length * 2)
        larger.set(skip)
        skip = larger
      }
      skip[source.slot] = 0
    }
    return source
  }

  function replace(source: Source, words: Uint32Array): void {
    const length = Math.max(words.length, source.words.length)
    for (let word = 0; word < length; word++) {
      const before = source.words[word] ?? 0
      const after = words[word] ?? 0
      for (let rest = before ^ after; rest !== 0; rest &= rest - 1) {
        const bit = 31 - Math.clz32(rest & -rest)
        board().addHolders(word * 32 + bit, (after >>> bit) & 1 ? 1 : -1)
      }
    }
    source.words = words
    wake(source)
  }

  function wake(source: Source): void {
    skip[source.slot] = skip[source.slot]! & ~IDLE
  }

  return {
    list,
    get skip() {
      return skip
    },
    get: (id) => byId.get(id),
    snapshot(id, have) {
      const source = of(id)
      replace(source, union(wordsOf(have), source.own))
    },
    add(id, index) {
      const source = of(id)
      source.own = withBit(source.own, index, true)
      if (offers(source, index)) return
      source.words = withBit(source.words, index, true)
      board().addHolders(index, 1)
      if (board().isFree(index)) wake(source)
    },
    deny(id, index) {
      const source = byId.get(id)
      if (source === undefined || !offers(source, index)) return
      source.own = withBit(source.own, index, false)
      source.words = withBit(source.words, index, false)
      board().addHolders(index, -1)
    },
    drop(id) {
      const source = byId.get(id)
      if (source === undefined) return
      replace(source, new Uint32Array(0))
      byId.delete(id)
      const last = list.pop()!
      if (last === source) return
      list[source.slot] = last
      skip[source.slot] = skip[last.slot]!
      last.slot = source.slot
    },
    freed(index) {
      if (board().holders(index) === 0) return
      for (let slot = 0; slot < list.length; slot++) {
        if ((skip[slot]! & IDLE) !== 0 && offers(list[slot]!, index)) wake(list[slot]!)
      }
    },
  }
}

/** A bitfield (least significant bit of byte 0 first) as 32-bit words in the same order of bits. */
function wordsOf(field: Uint8Array): Uint32Array {
  const words = new Uint32Array(Math.ceil(field.length / 4))
  for (let i = 0; i < field.length; i++) words[i >>> 2]! |= field[i]! << ((i & 3) * 8)
  return words
}

function union(a: Uint32Array, b: Uint32Array): Uint32Array {
  const all = a.length >= b.length ? a : b.slice()
  const other = a.length >= b.length ? b : a
  for (let i = 0; i < other.length; i++) all[i]! |= other[i]!
  return all
}

/** The words with one bit changed: the same array where it has room for it. */
function withBit(words: Uint32Array, index: number, value: boolean): Uint32Array {
  const at = index >>> 5
  let found = words
  if (at >= words.length) {
    if (!value) return words
    found = new Uint32Array(Math.max(at + 1, words.length * 2, 8))
    found.set(words)
  }
  const mask = 1 << (index & 31)
  found[at] = value ? found[at]! | mask : found[at]! & ~mask
  return found
}
