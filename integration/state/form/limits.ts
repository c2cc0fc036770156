/** The unit of comparison: a page of memory. */
export const PAGE = 4096
/** Pages of a frame: the unit of compression, and of what must be unpacked to read one page. */
export const FRAME_PAGES = 64
export const FRAME = FRAME_PAGES * PAGE
/** Most pages of a pack (32 MiB before compression). */
export const PACK_PAGES = 8192
/** Bytes of a page's name: SHA-256, cut short. */
export const NAME = 16

/** What a recipe may ask of a reader: it may come from anybody in the cluster. */
export const LIMITS = {
  /** Bytes of a recipe as a blob, and unpacked. */
  recipe: 16 * 2 ** 20,
  unpacked: 32 * 2 ** 20,
  files: 65_536,
  packs: 4096,
  /** Of all files together. */
  extents: 2 ** 21,
  /** Bytes of all files together. */
  state: 2 ** 37,
  /** Bytes of one extent. */
  extent: 2 ** 30,
  path: 4096,
} as const
