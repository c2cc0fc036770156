/**
 * The IDs by falling random weight for the key: the first is the key's node, the second takes over where the first is
 * gone, and a node that comes or goes moves only the keys that it gains or had. The same on every node, whatever the
 * order of `ids`. Highest random weight hashing: D. Thaler and C. Ravishankar, "Using Name-Based Mappings to Increase
 * Hit Rates", IEEE/ACM Transactions on Networking 6(1), 1998.
 */
export function rendezvous(key: string, ids: readonly string[]): string[] {
  const high = hash32(key, 0x9747b28c)
  const low = hash32(key, 0x3c6ef372)
  return ids
    .map((id) => ({ id, high: hash32(id, high), low: hash32(id, low) }))
    .sort((a, b) => b.high - a.high || b.low - a.low || (a.id < b.id ? -1 : a.id > b.id ? 1 : 0))
    .map((entry) => entry.id)
}

/**
 * MurmurHash3 (x86, 32 bits) by Austin Appleby, public domain, over the text's UTF-16 units, two to a word. Not for
 * secrets: it only has to be quick, and to spread well.
 */
export function hash32(text: string, seed: number): number {
  let hash = seed | 0
  const even = text.length & ~1
  for (let i = 0; i < even; i += 2) {
    hash ^= scramble(text.charCodeAt(i) | (text.charCodeAt(i + 1) << 16))
    hash = Math.imul((hash << 13) | (hash >>> 19), 5) + 0xe6546b64
  }
  if (even < text.length) hash ^= scramble(text.charCodeAt(even))
  hash ^= text.length * 2
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return (hash ^ (hash >>> 16)) >>> 0
}

function scramble(word: number): number {
  const mixed = Math.imul(word, 0xcc9e2d51)
  return Math.imul((mixed << 15) | (mixed >>> 17), 0x1b873593)
}
