import assert from 'node:assert/strict'
import { rm, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import type { Digest } from '../../base/index.ts'
import {
  type Blob,
  type BlockStore,
  type Cid,
  cidOf,
  openBlockStore,
  type Segment,
} from '../../blockstore/index.ts'
import { all, blobNamed, blockPath, bytesOf, filesIn, scratch, stagedIn } from './tools.ts'

const DIGESTS = ['a', 'b', 'c'].map(blobNamed)
const digest = fc.constantFrom(...DIGESTS)
const offset = fc.constantFrom(0, 1000, 2000)
/** Few contents, so that blocks are shared; one of them empty, one large. */
const seed = fc.integer({ min: 0, max: 4 })
const contentOf = (n: number): Buffer => bytesOf(n, [0, 10, 1000, 1000, 70_000][n])

const operation = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({ type: fc.constant('put'), digest, offset, seed, expect: fc.boolean() }),
  },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('putWrong'), digest, offset, seed }) },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('drop'), digest, offset }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('remove'), digest }) },
  {
    weight: 1,
    arbitrary: fc.record({ type: fc.constant('describe'), digest, size: fc.constantFrom(10, 1010, 2000) }),
  },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('complete'), digest }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('pin'), digest, pinned: fc.boolean() }) },
  {
    weight: 3,
    arbitrary: fc.record({
      type: fc.constant('keep'),
      digest,
      offsets: fc.subarray([0, 1000, 2000, 3000], { minLength: 0 }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('trim'), digest }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('scrub') }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('evict') }) },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('read'), seed }) },
  {
    weight: 2,
    arbitrary: fc.record({
      type: fc.constant('damage'),
      seed,
      how: fc.constantFrom('truncate' as const, 'overwrite' as const, 'unlink' as const),
    }),
  },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('reopen'), crash: fc.boolean() }) },
)
type Operation = typeof operation extends fc.Arbitrary<infer T> ? T : never

type Known = Omit<Blob, 'usedAt' | 'bytesHere' | 'bytesKept' | 'digest'> & {
  segments: Map<number, Segment>
  kept: Set<number>
}

/** What a store should hold, kept in the plainest way. */
class Model {
  readonly blobs = new Map<Digest, Known>()

  know(of: Digest): Known {
    let blob = this.blobs.get(of)
    if (!blob) {
      blob = {
        size: undefined,
        mediaType: undefined,
        complete: false,
        pinned: false,
        borrowedFrom: undefined,
        mayMove: true,
        segments: new Map(),
        kept: new Set(),
      }
      this.blobs.set(of, blob)
    }
    return blob
  }

  blocks(): Map<Cid, number> {
    const blocks = new Map<Cid, number>()
    for (const { segments } of this.blobs.values()) {
      for (const { cid, length } of segments.values()) blocks.set(cid, length)
    }
    return blocks
  }

  /** What an unpinned blob loses to eviction. */
  trim(of: Digest): void {
    const blob = this.blobs.get(of)
    if (!blob || blob.pinned) return
    if (blob.kept.size === 0) this.blobs.delete(of)
    for (const at of [...blob.segments.keys()]) {
      if (blob.kept.has(at)) continue
      blob.segments.delete(at)
      blob.complete = false
    }
  }

  lose(cid: Cid): void {
    for (const blob of this.blobs.values()) {
      for (const [at, segment] of blob.segments) {
        if (segment.cid !== cid) continue
        blob.segments.delete(at)
        blob.complete = false
      }
    }
  }
}

const bytesHere = ({ segments }: Known): number =>
  [...segments.values()].reduce((sum, { length }) => sum + length, 0)
const bytesKept = ({ segments, kept }: Known): number =>
  [...kept].reduce((sum, at) => sum + (segments.get(at)?.length ?? 0), 0)

async function compare(store: BlockStore, model: Model, dir: string): Promise<void> {
  for (const of of DIGESTS) {
    const expected = model.blobs.get(of)
    const { usedAt: _, ...blob } = (await store.blob(of)) ?? { usedAt: 0 }
    if (!expected) {
      assert.deepEqual(blob, {})
      assert.deepEqual(await store.segments(of), [])
      assert.deepEqual(await store.kept(of), [])
      continue
    }
    const { segments, kept, ...facts } = expected
    const bytes = { bytesHere: bytesHere(expected), bytesKept: bytesKept(expected) }
    assert.deepEqual(blob, { digest: of, ...facts, ...bytes })
    assert.deepEqual(
      await store.kept(of),
      [...kept].sort((a, b) => a - b),
    )
    assert.deepEqual(
      await store.segments(of),
      [...segments.values()].sort((a, b) => a.offset - b.offset),
    )
  }
  assert.equal((await all(store.blobs())).length, model.blobs.size)
  const keeping = [...model.blobs].filter(([, { kept }]) => kept.size > 0).map(([of]) => of)
  assert.deepEqual((await all(store.keptBlobs())).sort(), keeping.sort())
  const blocks = model.blocks()
  const bytes = [...blocks.values()].reduce((sum, length) => sum + length, 0)
  assert.deepEqual(store.usage(), { bytes, blocks: blocks.size, borrowed: 0, quota: undefined })
  for (const n of [0, 1, 2, 3, 4]) {
    const cid = cidOf(contentOf(n))
    assert.equal(await store.has(cid), blocks.has(cid))
  }
  assert.deepEqual(await stagedIn(dir), [])
}

test('random operations, damage, restarts and crashes leave what a plain model says', async (t) => {
  const root = await scratch(t)
  let run = 0
  await fc.assert(
    fc.asyncProperty(fc.array(operation, { minLength: 5, maxLength: 40 }), async (operations) => {
      const dir = join(root, String(run++))
      const model = new Model()
      /** Blocks whose file was spoilt and not been read or put again since. */
      const spoilt = new Set<Cid>()
      let store = await openBlockStore({ dir })
      try {
        for (const op of operations) {
          store = await apply(op)
          await compare(store, model, dir)
        }
        // Reading everything finds the rest of the damage, and then disk and index agree.
        for (const n of [0, 1, 2, 3, 4]) store = await apply({ type: 'read', seed: n })
        assert.deepEqual((await filesIn(dir)).sort(), [...model.blocks().keys()].sort())
      } finally {
        await store.close()
        await rm(dir, { recursive: true, force: true })
      }

      async function apply(op: Operation): Promise<BlockStore> {
        for (const gone of spoilt) if (!model.blocks().has(gone)) spoilt.delete(gone)
        switch (op.type) {
          case 'put': {
            const { digest: of, offset: at, seed: n, expect } = op as Extract<Operation, { expect: boolean }>
            const bytes = contentOf(n)
            const cid = cidOf(bytes)
            const had = model.blocks().has(cid)
            await store.putSegment(of, { offset: at, ...(expect ? { expect: cid } : {}) }, bytes)
            const blob = model.know(of)
            const old = blob.segments.get(at)
            if (old?.cid !== cid) {
              blob.segments.set(at, { cid, offset: at, length: bytes.length })
              if (old) blob.complete = false
            }
            // A new file takes the place of a spoilt one, unless the block was said to be here and looked so.
            if (!expect || !had) spoilt.delete(cid)
            return store
          }
          case 'putWrong': {
            const { digest: of, offset: at, seed: n } = op as { digest: Digest; offset: number; seed: number }
            const expect = cidOf(contentOf((n + 1) % 5))
            await assert.rejects(store.putSegment(of, { offset: at, expect }, contentOf(n)), {
              code: 'BLOCK_MISMATCH',
            })
            return store
          }
          case 'drop': {
            const { digest: of, offset: at } = op as { digest: Digest; offset: number }
            await store.dropSegment(of, at)
            const blob = model.blobs.get(of)
            if (blob?.segments.delete(at)) blob.complete = false
            return store
          }
          case 'remove': {
            const { digest: of } = op as { digest: Digest }
            await store.remove(of)
            model.blobs.delete(of)
            return store
          }
          case 'describe': {
            const { digest: of, size } = op as { digest: Digest; size: number }
            await store.describe(of, { size, mediaType: `type/${size}` })
            const blob = model.know(of)
            if (!blob.complete) blob.size = size
            blob.mediaType = `type/${size}`
            return store
          }
          case 'complete': {
            const { digest: of } = op as { digest: Digest }
            const blob = model.blobs.get(of)
            if (blob && bytesHere(blob) >= (blob.size ?? 0)) {
              await store.markComplete(of)
              blob.size ??= bytesHere(blob)
              blob.complete = true
            } else await assert.rejects(store.markComplete(of), { code: 'BLOCK_MISSING' })
            return store
          }
          case 'pin': {
            const { digest: of, pinned } = op as { digest: Digest; pinned: boolean }
            await store.pin(of, pinned)
            if (pinned || model.blobs.has(of)) model.know(of).pinned = pinned
            return store
          }
          case 'keep': {
            const { digest: of, offsets } = op as { digest: Digest; offsets: number[] }
            await store.keep(of, offsets)
            const blob = model.blobs.get(of)
            if (offsets.length === 0 && (blob?.kept.size ?? 0) === 0) return store
            model.know(of).kept = new Set(offsets)
            const only = blob && blob.segments.size === 0 && !blob.pinned
            if (offsets.length === 0 && only) model.blobs.delete(of)
            return store
          }
          case 'trim': {
            const { digest: of } = op as { digest: Digest }
            await store.trim(of)
            model.trim(of)
            return store
          }
          case 'evict': {
            // A blob without bytes (one may have an empty block) is no candidate.
            await store.collect(undefined, { all: true })
            for (const [of, blob] of [...model.blobs]) if (bytesHere(blob) > bytesKept(blob)) model.trim(of)
            return store
          }
          case 'scrub': {
            const blocks = model.blocks()
            const bad = [...spoilt].filter((cid) => blocks.has(cid))
            const done = await store.scrub({
              bytesPerSecond: Number.POSITIVE_INFINITY,
              signal: new AbortController().signal,
            })
            const bytes = [...blocks.values()].reduce((sum, length) => sum + length, 0)
            assert.deepEqual(done, { blocks: blocks.size, bytes, bad: bad.length })
            for (const cid of bad) model.lose(cid)
            spoilt.clear()
            return store
          }
          case 'read': {
            const bytes = contentOf((op as { seed: number }).seed)
            const cid = cidOf(bytes)
            if (model.blocks().has(cid) && !spoilt.has(cid)) assert.deepEqual(await store.read(cid), bytes)
            else {
              await assert.rejects(store.read(cid), /Error/)
              model.lose(cid)
              spoilt.delete(cid)
            }
            return store
          }
          case 'damage': {
            const { seed: n, how } = op as { seed: number; how: string }
            const bytes = contentOf(n)
            const cid = cidOf(bytes)
            if (!model.blocks().has(cid) || bytes.length === 0) return store
            const path = blockPath(dir, cid)
            // Damage that a put with `expect` sees at a glance would not stay, so the model would have to know it.
            if (how === 'overwrite') await writeFile(path, Buffer.alloc(bytes.length, 'x'))
            else {
              await (how === 'unlink' ? rm(path, { force: true }) : truncate(path, 3).catch(() => {}))
              await assert.rejects(store.read(cid), /Error/)
              model.lose(cid)
              spoilt.delete(cid)
              return store
            }
            spoilt.add(cid)
            return store
          }
          default: {
            await store.close()
            if ((op as { crash: boolean }).crash) await rm(join(dir, 'clean.json'))
            return openBlockStore({ dir })
          }
        }
      }
    }),
    { numRuns: 60 },
  )
})

test('under any load a quota holds, and what is held or pinned is all there', async (t) => {
  const root = await scratch(t)
  let run = 0
  const step = fc.record({
    digest: fc.constantFrom(...['a', 'b', 'c', 'd', 'e', 'f'].map(blobNamed)),
    offset: fc.constantFrom(0, 1000, 2000),
    seed: fc.integer({ min: 0, max: 30 }),
    next: fc.constantFrom(
      'nothing',
      'nothing',
      'hold',
      'release',
      'pin',
      'unpin',
      'collect',
      'reopen',
      'keep',
      'let go',
      'trim',
    ),
  })
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 10, maxLength: 60 }), async (steps) => {
      const dir = join(root, String(run++))
      const options = { dir, quota: 6000 }
      let store = await openBlockStore(options)
      const holds = new Map<Digest, () => void>()
      const pinned = new Set<Digest>()
      const kept = new Map<string, Cid>()
      /** Of each blob the one offset that is marked as kept. */
      const marks = new Map<Digest, number>()
      for (const { digest: of, offset: at, seed: n, next } of steps) {
        const stays = (blob: Digest, place: number): boolean =>
          holds.has(blob) || pinned.has(blob) || marks.get(blob) === place
        try {
          const cid = await store.putSegment(of, { offset: at }, bytesOf(n, 500 + n * 10))
          if (stays(of, at)) kept.set(`${of} ${at}`, cid)
        } catch (error) {
          assert.equal((error as { code: string }).code, 'STORE_FULL')
        }
        if (next === 'hold' && !holds.has(of)) holds.set(of, store.hold(of))
        if (next === 'release') {
          holds.get(of)?.()
          holds.delete(of)
        }
        if (next === 'pin' || next === 'unpin') {
          await store.pin(of, next === 'pin')
          pinned[next === 'pin' ? 'add' : 'delete'](of)
        }
        if (next === 'collect') {
          await store.collect()
          assert.ok(store.usage().bytes <= 5400 || holds.size + pinned.size + marks.size > 0)
        }
        if (next === 'keep') {
          await store.keep(of, [at])
          marks.set(of, at)
        }
        if (next === 'let go') {
          await store.keep(of, [])
          marks.delete(of)
        }
        if (next === 'trim') {
          await store.trim(of)
          const left = (await store.segments(of)).map(({ offset }) => offset)
          if (!holds.has(of) && !pinned.has(of)) assert.ok(left.every((place) => place === marks.get(of)))
        }
        if (next === 'reopen') {
          await store.close()
          store = await openBlockStore(options)
          holds.clear()
        }
        for (const place of kept.keys()) {
          const [blob, offset] = place.split(' ') as [Digest, string]
          if (!stays(blob, Number(offset))) kept.delete(place)
        }
        for (const { cid, offset } of await store.segments(of)) {
          if (stays(of, offset)) kept.set(`${of} ${offset}`, cid)
        }

        const blocks = new Map<Cid, number>()
        for (const blob of await all(store.blobs())) {
          for (const { cid, length, offset } of await store.segments(blob.digest)) {
            blocks.set(cid, length)
            const expected = kept.get(`${blob.digest} ${offset}`)
            if (expected) assert.equal(cid, expected)
          }
        }
        for (const cid of kept.values()) assert.ok(blocks.has(cid))
        const bytes = [...blocks.values()].reduce((sum, length) => sum + length, 0)
        assert.deepEqual(store.usage(), { bytes, blocks: blocks.size, borrowed: 0, quota: 6000 })
        assert.ok(bytes <= 6000)
      }
      assert.equal((await filesIn(dir)).length, store.usage().blocks)
      await store.close()
      await rm(dir, { recursive: true, force: true })
    }),
    { numRuns: 25 },
  )
})
