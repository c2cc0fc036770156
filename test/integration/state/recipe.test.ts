import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { constants, zstdCompressSync } from 'node:zlib'
import { decode, encode } from 'cborg'
import fc from 'fast-check'
import { type Digest, digestOf, isShoalError } from '../../../base/index.ts'
import { packRecipe } from '../../../integration/state/form/frames.ts'
import { FRAME_PAGES, LIMITS, PACK_PAGES } from '../../../integration/state/form/limits.ts'
import {
  addExtent,
  decodeRecipe,
  emptyExtents,
  encodeRecipe,
  NONE,
  type Recipe,
} from '../../../integration/state/form/recipe.ts'
import { createTwin } from './twin.ts'

const digest = (n: number): Digest => digestOf(Buffer.from([n & 255, n >> 8]))

/** A recipe's body as it is encoded. */
interface Body {
  v: unknown
  seal: unknown
  packs: unknown[]
  files: unknown[]
}

/** One pack of 70 pages; a file of a run of it, zeros and a tail. */
function sound(): Recipe {
  const extents = emptyExtents(4)
  addExtent(extents, 0, 3, 60 * 4096)
  addExtent(extents, NONE, 0, 8192)
  addExtent(extents, 0, 0, 100)
  const frames = Uint32Array.of(FRAME_PAGES * 4096, 2000)
  return {
    seal: undefined,
    packs: [{ digest: digest(1), pages: 70, frames }],
    files: [{ path: 'criu/a.img', size: 62 * 4096 + 100, extents }],
  }
}

const bytesOf = (change: (body: Body) => void): Uint8Array => {
  const body = decode(encodeRecipe(sound())) as Body
  change(body)
  return encode(body)
}
const runs = (...values: number[]): Uint8Array => Uint8Array.from(values)
const file = (path: unknown, size: unknown, extents: unknown) => (body: Body) =>
  void Object.assign(body, { files: [[path, size, extents]] })
const pack =
  (...of: unknown[]) =>
  (body: Body) =>
    void Object.assign(body, { packs: [of] })

const HOSTILE: [string, (body: Body) => void][] = [
  ['a path out of the directory', file('../a', 100, runs(1, 0, 1, 100))],
  ['a path out of it further down', file('a/../../b', 100, runs(1, 0, 1, 100))],
  ['an absolute path', file('/etc/passwd', 100, runs(1, 0, 1, 100))],
  ['a path with an empty part', file('a//b', 100, runs(1, 0, 1, 100))],
  ['a path with a NUL', file('a\0b', 100, runs(1, 0, 1, 100))],
  ['a part that no file system takes', file('a'.repeat(256), 100, runs(1, 0, 1, 100))],
  ['a path of another name for here', file('./a', 100, runs(1, 0, 1, 100))],
  ['the name of a file in the making', file('a.shoal-new', 100, runs(1, 0, 1, 100))],
  ['no path', file(7, 100, runs(1, 0, 1, 100))],
  ['a file twice', (b) => void b.files.push(b.files[0])],
  ['files out of order', (b) => void b.files.unshift(['z', 0, runs()])],
  ['a file that is a directory too', (b) => void b.files.unshift(['criu', 0, runs()])],
  ['another size than its runs', file('a', 99, runs(1, 0, 1, 100))],
  ['a size below zero', file('a', -1, runs(1, 0, 1, 100))],
  ['a size that no disk has', file('a', 2 ** 50, runs(0, ...Array(6).fill(255), 1))],
  ['a run of nothing', file('a', 0, runs(1, 0, 0))],
  ['a tail of nothing', file('a', 4096, runs(1, 0, 3, 0))],
  ['a tail longer than a page', file('a', 4096, runs(1, 0, 1, 128, 32))],
  ['a run past its pack', file('a', 71 * 4096, runs(1, 0, 142, 1))],
  ['a run before its pack', file('a', 4096, runs(1, 1, 2))],
  ['a pack that is not there', file('a', 4096, runs(2, 0, 2))],
  ['a run that is cut off', file('a', 4096, runs(1, 0))],
  ['a number with zeros in front', file('a', 4096, runs(1, 0, 130, 0))],
  ['a number without end', file('a', 4096, runs(...Array(40).fill(255)))],
  ['two runs that are one', file('a', 8192, runs(1, 0, 2, 1, 0, 2))],
  ['a pack that nothing needs', (b) => void b.packs.push([digest(2), 1, runs(5)])],
  ['a pack twice', (b) => void b.packs.push(b.packs[0])],
  ['a pack without pages', pack(digest(1), 0, runs())],
  ['a pack with too many pages', pack(digest(1), PACK_PAGES + 1, runs(5))],
  ['a pack with a frame too few', pack(digest(1), 70, runs(5))],
  ['a pack with a frame too many', pack(digest(1), 70, runs(5, 5, 5))],
  ['a frame of nothing', pack(digest(1), 70, runs(5, 0))],
  ['a frame larger than its pages', pack(digest(1), 70, runs(5, 129, 192, 1))],
  ['a digest that is none', pack('sha256:abc', 70, runs(5, 5))],
  ['an unknown version', (b) => void Object.assign(b, { v: 2 })],
  ['a seal that is none', (b) => void Object.assign(b, { seal: 5 })],
  ['a field more', (b) => void Object.assign(b, { more: 1 })],
  ['no list of files', (b) => void Object.assign(b, { files: {} })],
]

describe('a recipe', () => {
  test('is what it was after it was encoded', () => {
    assert.deepEqual(encodeRecipe(decodeRecipe(encodeRecipe(sound()))), encodeRecipe(sound()))
    const { packs, files } = decodeRecipe(encodeRecipe(sound()))
    assert.deepEqual(packs, sound().packs)
    assert.equal(files[0]?.extents.count, 3)
  })

  for (const [what, change] of HOSTILE)
    test(`with ${what} is refused`, () => {
      assert.throws(() => decodeRecipe(bytesOf(change)), { code: 'PROTOCOL' })
    })

  test('with any byte changed is refused, or another sound recipe', () => {
    const good = Buffer.from(encodeRecipe(sound()))
    const change = fc.record({ at: fc.nat(good.length - 1), to: fc.nat(255), cut: fc.nat(good.length) })
    fc.assert(
      fc.property(change, ({ at, to, cut }) => {
        const changed = Buffer.from(good)
        changed[at] = to
        for (const bytes of [changed, good.subarray(0, cut), Buffer.concat([good, changed.subarray(cut)])]) {
          let recipe: Recipe
          try {
            recipe = decodeRecipe(bytes)
          } catch (error) {
            assert.ok(isShoalError(error, 'PROTOCOL'), String(error))
            continue
          }
          assert.deepEqual(Buffer.from(encodeRecipe(recipe)), bytes)
        }
      }),
      { numRuns: 2000 },
    )
  })
})

describe('blobs of a state that are not what they say', () => {
  const root = (t: { after(done: () => void): void }): string => {
    const made = mkdtempSync(join(tmpdir(), 'shoal-recipe-'))
    t.after(() => rmSync(made, { recursive: true, force: true }))
    return made
  }
  const put = (blobs: Map<Digest, Buffer>, bytes: Uint8Array): Digest => {
    const name = digestOf(bytes)
    blobs.set(name, Buffer.from(bytes))
    return name
  }
  const refused = { code: 'PROTOCOL' }

  test('are refused: no recipe, one that unpacks to too much, one that is too long', async (t) => {
    const dir = root(t)
    const twin = createTwin(dir)
    const bomb = zstdCompressSync(Buffer.alloc(LIMITS.unpacked + 1), {
      params: { [constants.ZSTD_c_compressionLevel]: 1 },
    })
    for (const bytes of [Buffer.from('no recipe'), Buffer.alloc(0), bomb, Buffer.alloc(LIMITS.recipe + 1)])
      await assert.rejects(twin.assemble(put(twin.blobs, bytes), join(dir, 'out')), refused)
  })

  test('are refused: packs that are shorter, longer or unpack to something else', async (t) => {
    const dir = root(t)
    const twin = createTwin(dir)
    const frame = zstdCompressSync(Buffer.alloc(4096, 1))
    const large = zstdCompressSync(Buffer.alloc(2 ** 24, 1))
    const small = zstdCompressSync(Buffer.alloc(4095, 1))
    const cases: [Uint8Array, number][] = [
      [frame.subarray(1), frame.length],
      [Buffer.concat([frame, frame]), frame.length],
      [Buffer.alloc(frame.length, 1), frame.length],
      [large, large.length],
      [small, small.length],
    ]
    for (const [bytes, length] of cases) {
      const extents = emptyExtents(1)
      addExtent(extents, 0, 0, 4096)
      const packs = [{ digest: put(twin.blobs, bytes), pages: 1, frames: Uint32Array.of(length) }]
      const files = [{ path: 'a', size: 4096, extents }]
      const recipe = put(twin.blobs, packRecipe(encodeRecipe({ seal: undefined, packs, files }), undefined))
      await assert.rejects(twin.assemble(recipe, join(dir, 'out')), refused)
      await assert.rejects(twin.read(recipe, 'a', 0, 4096), refused)
    }
  })
})
