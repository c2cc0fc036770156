import { NAME, PACK_PAGES } from '../form/limits.ts'

/** A page's place: its pack's number times PACK_PAGES, and its number in there. */
export type Place = number

/** Where pages of given content are: 24 to 40 bytes a page. Packs have numbers by the order in which they came. */
export interface PageTable {
  /** Adds a pack with the names of its pages one after another; resolves to its number. */
  add(names: Buffer): number
  /** Begins a pack whose pages come one by one. */
  begin(): number
  /** Adds the next page of the pack begun last. */
  push(name: Buffer): Place
  /** The place of a page of this name, `hint` where it is there; undefined if there is none. */
  find(name: Buffer, hint: Place): Place | undefined
  /** Names of the pages of a pack. */
  names(pack: number): Buffer
}

export function createPageTable(): PageTable {
  const packs: Buffer[] = []
  let pages = 0
  let slots = new Uint32Array(1024)
  let last = 0

  const at = (place: Place): number => (place % PACK_PAGES) * NAME
  const packOf = (place: Place): Buffer => packs[Math.floor(place / PACK_PAGES)] as Buffer

  const isAt = (name: Buffer, place: Place): boolean => {
    const offset = at(place)
    return packOf(place).compare(name, 0, NAME, offset, offset + NAME) === 0
  }

  function insert(name: Buffer, offset: number, place: Place): void {
    const mask = slots.length - 1
    let slot = name.readUInt32LE(offset) & mask
    while (slots[slot] !== 0) slot = (slot + 1) & mask
    slots[slot] = place + 1
  }

  function room(more: number): void {
    pages += more
    if (pages * 2 <= slots.length) return
    const old = slots
    let length = slots.length
    while (pages * 2 > length) length *= 2
    slots = new Uint32Array(length)
    for (const value of old) if (value !== 0) insert(packOf(value - 1), at(value - 1), value - 1)
  }

  return {
    add(names) {
      const pack = packs.length
      packs.push(names)
      const count = names.length / NAME
      room(count)
      for (let page = 0; page < count; page++) insert(names, page * NAME, pack * PACK_PAGES + page)
      last = count
      return pack
    },
    begin() {
      packs.push(Buffer.alloc(64 * NAME))
      last = 0
      return packs.length - 1
    },
    push(name) {
      const pack = packs.length - 1
      let names = packs[pack] as Buffer
      if ((last + 1) * NAME > names.length) {
        names = Buffer.concat([names], Math.min(PACK_PAGES * NAME, names.length * 2))
        packs[pack] = names
      }
      name.copy(names, last * NAME, 0, NAME)
      room(1)
      const place = pack * PACK_PAGES + last++
      insert(names, at(place), place)
      return place
    },
    find(name, hint) {
      const pack = packs[Math.floor(hint / PACK_PAGES)]
      if (pack && at(hint) < pack.length && isAt(name, hint)) return hint
      const mask = slots.length - 1
      for (let slot = name.readUInt32LE(0) & mask; slots[slot] !== 0; slot = (slot + 1) & mask) {
        const place = (slots[slot] as number) - 1
        if (isAt(name, place)) return place
      }
      return undefined
    },
    names: (pack) =>
      pack === packs.length - 1 ? (packs[pack] as Buffer).subarray(0, last * NAME) : (packs[pack] as Buffer),
  }
}
