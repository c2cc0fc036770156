/** The blocks of one task as sets of bits in 32-bit words, and how many known peers have each. */
export interface Board {
  /** Blocks that are known of so far (those of the blob once its size is known). */
  readonly end: number
  setEnd(blocks: number): void
  has(index: number): boolean
  isKnown(index: number): boolean
  isFree(index: number): boolean
  /** How many known peers have it. */
  holders(index: number): number
  setHas(index: number, value: boolean): void
  setKnown(index: number, value: boolean): void
  setAsked(index: number, value: boolean): void
  setSeeding(index: number, value: boolean): void
  addHolders(index: number, step: number): void
  /** Blocks that are here. */
  readonly here: number
  /** Blocks that could be asked for: known, not here, not in flight, not being seeded. */
  readonly free: number
  /** The rarest free block among those that the words name, ties at random; -1 if there is none. */
  rarest(words: Uint32Array, random: () => number): number
}

/** Blocks that `rarest` looks at before it is content: bounds its cost for large blobs. */
const SAMPLE = 192

const HERE = 1
const KNOWN = 2
const ASKED = 4
const SEEDING = 8

/** `freed` hears of every block that can be asked for from now on. */
export function createBoard(freed: (index: number) => void): Board {
  let flags = new Uint8Array(64)
  let rarity = new Uint16Array(64)
  let free = new Uint32Array(2)
  let end = 0
  let bounded = false
  let here = 0
  let freeCount = 0

  function reach(index: number): void {
    if (index < flags.length) return
    const length = Math.max(64, 2 ** Math.ceil(Math.log2(index + 1)))
    flags = grown(flags, new Uint8Array(length))
    rarity = grown(rarity, new Uint16Array(length))
    free = grown(free, new Uint32Array(length / 32))
  }

  function set(index: number, flag: number, value: boolean): void {
    reach(index)
    if (!bounded && index >= end) end = index + 1
    const old = flags[index]!
    const now = value ? old | flag : old & ~flag
    if (now === old) return
    flags[index] = now
    if (flag === HERE && index < end) here += value ? 1 : -1
    update(index)
  }

  function update(index: number): void {
    const word = index >>> 5
    const mask = 1 << (index & 31)
    const isFree = flags[index] === KNOWN && index < end
    const wasFree = (free[word]! & mask) !== 0
    if (isFree === wasFree) return
    free[word] = isFree ? free[word]! | mask : free[word]! & ~mask
    freeCount += isFree ? 1 : -1
    if (isFree) freed(index)
  }

  return {
    get end() {
      return end
    },
    setEnd(blocks) {
      const old = Math.max(end, flags.length)
      end = blocks
      bounded = true
      if (blocks > 0) reach(blocks - 1)
      here = 0
      for (let index = 0; index < Math.max(old, blocks) && index < flags.length; index++) {
        if (index < end && (flags[index]! & HERE) !== 0) here++
        update(index)
      }
    },
    has: (index) => ((flags[index] ?? 0) & HERE) !== 0,
    isKnown: (index) => ((flags[index] ?? 0) & KNOWN) !== 0,
    isFree: (index) => flags[index] === KNOWN && index < end,
    holders: (index) => rarity[index] ?? 0,
    setHas: (index, value) => set(index, HERE, value),
    setKnown: (index, value) => set(index, KNOWN, value),
    setAsked: (index, value) => set(index, ASKED, value),
    setSeeding: (index, value) => set(index, SEEDING, value),
    addHolders(index, step) {
      reach(index)
      rarity[index] = rarity[index]! + step
    },
    get here() {
      return here
    },
    get free() {
      return freeCount
    },
    rarest(words, random) {
      const length = Math.min(words.length, free.length)
      if (length === 0) return -1
      const salt = Math.floor(random() * 2 ** 32)
      const from = salt % length
      let best = -1
      let bestScore = Number.POSITIVE_INFINITY
      let seen = 0
      for (let i = 0, word = from; i < length && seen < SAMPLE; i++, word++) {
        if (word === length) word = 0
        for (let rest = words[word]! & free[word]!; rest !== 0; rest &= rest - 1) {
          const index = word * 32 + (31 - Math.clz32(rest & -rest))
          const noise = Math.imul(index ^ salt, 0x9e3779b1) >>> 20
          const score = rarity[index]! * 4096 + noise
          seen++
          if (score < bestScore) {
            bestScore = score
            best = index
          }
        }
      }
      return best
    },
  }
}

function grown<T extends Uint8Array | Uint16Array | Uint32Array>(old: T, larger: T): T {
  larger.set(old)
  return larger
}
