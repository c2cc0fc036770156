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

type Known = Omit<Blob, 'usedAt' | 'bytesHere' | 'digest'> & { segments: Map<number, Segment> }

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
        segments: new Map(),
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

async function compare(store: BlockStore, model: Model, dir: string): Promise<void> {
  for (const of of DIGESTS) {
    const expected = model.blobs.get(of)
    const { usedAt: _, ...blob } = (await store.blob(of)) ?? { usedAt: 0 }
    if (!expected) {
      assert.deepEqual(blob, {})
      assert.deepEqual(await store.segments(of), [])
      continue
    }
    const { segments, ...facts } = expected
    assert.deepEqual(blob, { digest: of, ...facts, bytesHere: bytesHere(expected) })
    assert.deepEqual(
      await store.segments(of),
      [...segments.values()].sort((a, b) => a.offset - b.offset),
    )
  }
  assert.equal((await all(store.blobs())).length, model.blobs.size)
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
        switch (op.type) {
          case 'put': {
            const { digest: of, offset: at, seed: n, expect } = op as Extract<Operation, { expect: boolean }>
            const bytes = contentOf(n)
            const cid = cidOf(bytes)
            await store.putSegment(of, { offset: at, ...(expect ? { expect: cid } : {}) }, bytes)
            const blob = model.know(of)
            const old = blob.segments.get(at)
            if (old?.cid !== cid) {
              blob.segments.set(at, { cid, offset: at, length: bytes.length })
              if (old) blob.complete = false
            }
            // A new file takes the place of a spoilt one, unless the block was said to be here and looked so.
            if (!expect || !model.blocks().has(cid)) spoilt.delete(cid)
            for (const gone of spoilt) if (!model.blocks().has(gone)) spoilt.delete(gone)
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
    next: fc.constantFrom('nothing', 'nothing', 'hold', 'release', 'pin', 'unpin', 'collect', 'reopen'),
  })
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 10, maxLength: 60 }), async (steps) => {
      const dir = join(root, String(run++))
      const options = { dir, quota: 6000 }
      let store = await openBlockStore(options)
      const holds = new Map<Digest, () => void>()
      const pinned = new Set<Digest>()
      const kept = new Map<string, Cid>()
      for (const { digest: of, offset: at, seed: n, next } of steps) {
        const isKept = (): boolean => holds.has(of) || pinned.has(of)
        try {
          const cid = await store.putSegment(of, { offset: at }, bytesOf(n, 500 + n * 10))
          if (isKept()) kept.set(`${of} ${at}`, cid)
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
          assert.ok(store.usage().bytes <= 5400 || holds.size + pinned.size > 0)
        }
        if (next === 'reopen') {
          await store.close()
          store = await openBlockStore(options)
          holds.clear()
        }
        for (const place of kept.keys()) {
          const of = place.split(' ')[0] as Digest
          if (!holds.has(of) && !pinned.has(of)) kept.delete(place)
        }
        if (isKept()) for (const { cid, offset } of await store.segments(of)) kept.set(`${of} ${offset}`, cid)

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
