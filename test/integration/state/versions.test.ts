import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import type { Digest } from '../../../base/index.ts'
import { LIMITS } from '../../../integration/state/form/limits.ts'
import { addExtent, emptyExtents, NONE, type Recipe } from '../../../integration/state/form/recipe.ts'
import { choosePacks, livePages } from '../../../integration/state/work/compaction.ts'
import { readFiles } from './tools.ts'
import { createTwin, type Twin } from './twin.ts'

const PAGE = 4096
const PAGES = 1500

function twinFor(t: { after(done: () => void): void }): { twin: Twin; root: string } {
  const root = mkdtempSync(join(tmpdir(), 'shoal-versions-'))
  t.after(() => rmSync(root, { recursive: true, force: true }))
  return { twin: createTwin(root), root }
}

/** Pages that change from one version to the next: the same seed, the same ones. */
function* writes(count: number, seed = 1): Generator<number> {
  let state = seed
  for (let i = 0; i < count; i++) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0
    yield state % PAGES
  }
}

const sum = (numbers: readonly number[]): number => numbers.reduce((a, b) => a + b, 0)
const pagesOf = (recipe: Recipe): number => sum(recipe.packs.map(({ pages }) => pages))

describe('many versions of a state', () => {
  test('ten cost their deltas', async (t) => {
    const { twin, root } = twinFor(t)
    const memory = randomBytes(PAGES * PAGE)
    let base: Digest | undefined
    let added = 0
    let changed = 0
    for (let version = 0; version < 10; version++) {
      if (version > 0)
        for (const page of writes(PAGES / 10, version)) randomBytes(PAGE).copy(memory, page * PAGE)
      const captured = await twin.capture({ 'pages-1.img': memory }, base)
      base = captured.recipe
      added += captured.added
      changed += captured.changed
    }
    // Random pages do not compress: what is above them are recipes.
    assert.ok(added < 1.02 * changed, `${added} bytes for ${changed}`)
    await twin.assemble(base!, join(root, 'out'))
    assert.deepEqual(readFiles(join(root, 'out')), { 'pages-1.img': memory })
  })

  test('a hundred stay within bounds, and cost little more than their deltas', async (t) => {
    const { twin, root } = twinFor(t)
    const memory = randomBytes(PAGES * PAGE)
    let base: Digest | undefined
    let written = 0
    let changed = 0
    for (let version = 0; version < 100; version++) {
      if (version % 20 === 0) twin.restart()
      let now = 0
      for (const page of writes(PAGES / 50, version + 1)) {
        randomBytes(PAGE).copy(memory, page * PAGE)
        now++
      }
      const captured = await twin.capture({ 'pages-1.img': memory }, base)
      base = captured.recipe
      const recipe = await twin.recipe(base)
      const live = sum(livePages(recipe))
      // Of the version before, at most half was dead; this one may have made so many more pages dead.
      assert.ok(
        pagesOf(recipe) <= 2 * live + now,
        `${pagesOf(recipe)} pages for ${live} in version ${version}`,
      )
      assert.ok(recipe.packs.length <= 34, `${recipe.packs.length} packs in version ${version}`)
      if (version > 0) {
        written += captured.changed
        changed += now * PAGE
      }
    }
    assert.ok(written <= 3 * changed, `${written / changed} times the changed pages were written`)
    await twin.assemble(base!, join(root, 'out'))
    assert.deepEqual(readFiles(join(root, 'out')), { 'pages-1.img': memory })
  })

  test('that hardly differ do not gather packs', async (t) => {
    const { twin } = twinFor(t)
    const memory = randomBytes(PAGES * PAGE)
    let base: Digest | undefined
    for (let version = 0; version < 80; version++) {
      randomBytes(PAGE).copy(memory, (version % 40) * PAGE)
      base = (await twin.capture({ 'pages-1.img': memory }, base)).recipe
      assert.ok((await twin.recipe(base)).packs.length <= 34)
    }
  })

  test('one that shrank does not drag along what it was', async (t) => {
    const { twin } = twinFor(t)
    const memory = randomBytes(PAGES * PAGE)
    const small = memory.subarray(0, 20 * PAGE)
    const { recipe } = await twin.capture({ a: memory })
    const second = await twin.capture({ a: small }, recipe)
    assert.equal(second.changed, 0)
    const third = await twin.capture({ a: small }, second.recipe)
    assert.equal(pagesOf(await twin.recipe(third.recipe)), 20)
  })

  test('in too many pieces are written anew', () => {
    const packs = [{ digest: 'sha256:0' as Digest, pages: 2, frames: Uint32Array.of(1) }]
    const extents = emptyExtents(LIMITS.extents)
    for (let i = 0; i < LIMITS.extents / 4 + 2; i++) addExtent(extents, i % 2 === 0 ? 0 : NONE, 0, PAGE)
    const recipe = { seal: undefined, packs, files: [{ path: 'a', size: 0, extents }] }
    assert.deepEqual(choosePacks(recipe), [])
  })
})

describe('a tar', () => {
  test('finds the content of large files wherever they lie in it', async (t) => {
    const { twin } = twinFor(t)
    const files = Array.from({ length: 6 }, (_, i) => ({
      name: `f${i}`,
      bytes: randomBytes(50_000 + i * 777),
    }))
    const first = await twin.capture({ 'rw.tar': tarOf(files) })
    const changed = [{ name: 'new', bytes: randomBytes(3000) }, ...files.slice(1, 4), files[5]!, files[4]!]
    const second = await twin.capture({ 'rw.tar': tarOf(changed) }, first.recipe)
    assert.ok(second.changed < 8 * PAGE, `${second.changed} bytes are new`)
  })
})

function tarOf(files: { name: string; bytes: Buffer }[]): Buffer {
  const parts: Buffer[] = []
  for (const { name, bytes } of files) {
    const header = Buffer.alloc(512)
    header.write(name)
    header.write('0000644\0', 100)
    header.write(`${bytes.length.toString(8).padStart(11, '0')}\0`, 124)
    header.write('        0', 148)
    header.write('ustar\x0000', 257)
    const total = header.reduce((a, b) => a + b, 0)
    header.write(`${total.toString(8).padStart(6, '0')}\0 `, 148)
    parts.push(header, bytes, Buffer.alloc((512 - (bytes.length % 512)) % 512))
  }
  return Buffer.concat([...parts, Buffer.alloc(1024)])
}
