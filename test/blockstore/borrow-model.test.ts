import assert from 'node:assert/strict'
import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { digestOf } from '../../base/index.ts'
import { BLOCK_SIZE, cidOf, openBlockStore } from '../../blockstore/index.ts'
import { all, filesIn, scratch } from './tools.ts'

/** Blocks that layers are made of: they share some, and have one twice. */
const blocks = [1, 2, 3, 4].map((n) => Buffer.alloc(BLOCK_SIZE, n))
const layers = [
  [0, 1, 2],
  [1, 1, 3],
  [3, 0],
].map((parts) => {
  const bytes = Buffer.concat([...parts.map((n) => blocks[n]!), Buffer.from(`the end of ${parts}`)])
  return { digest: digestOf(bytes), bytes }
})

const operation = fc.record({
  what: fc.constantFrom(
    'put',
    'whole',
    'file',
    'borrow',
    'borrow',
    'giveBack',
    'vanish',
    'remove',
    'drop',
    'keep',
    'pin',
    'trim',
    'gc',
    'scrub',
    'restart',
    'crash',
  ),
  layer: fc.nat(layers.length - 1),
  index: fc.nat(3),
  more: fc.boolean(),
})

test('whatever is borrowed, put, kept, evicted, given back and lost: all that the index names can be read, and nothing else is on the disk', async (t) => {
  const root = await scratch(t)
  const sign = () => ({ seeder: 'me', signature: Buffer.from('signed') })
  const { signal } = new AbortController()
  let run = 0
  await fc.assert(
    fc.asyncProperty(fc.array(operation, { minLength: 5, maxLength: 30 }), async (operations) => {
      const dir = join(root, String(run++))
      let store = await openBlockStore({ dir, memoBlocks: 0 })
      const files = new Set<number>()
      const marks = layers.map(() => [] as number[])
      const pathOf = (n: number): string => join(root, `layer ${n}`)
      const put = (n: number, index: number): Promise<unknown> => {
        const { digest, bytes } = layers[n]!
        const block = bytes.subarray(index * BLOCK_SIZE, (index + 1) * BLOCK_SIZE)
        if (block.length === 0) return Promise.resolve()
        return store.putSegment(
          digest,
          { offset: index * BLOCK_SIZE, expect: cidOf(block), ...sign() },
          block,
        )
      }
      for (const { what, layer: n, index, more } of operations) {
        const { digest, bytes } = layers[n]!
        if (what === 'put') await put(n, index)
        if (what === 'whole') {
          for (let i = 0; i < 4; i++) await put(n, i)
          await store.describe(digest, { size: bytes.length })
          await store.markComplete(digest)
        }
        if (what === 'file') {
          await writeFile(pathOf(n), bytes)
          files.add(n)
        }
        if (what === 'borrow') {
          const { pinned = false, complete = false } = (await store.blob(digest)) ?? {}
          const stands = await store.borrow(digest, pathOf(n), { sign, signal })
          if (pinned) assert.equal(stands, complete)
          else assert.equal(stands, files.has(n) || (await isBorrowed(n)))
          if (stands && !pinned && files.has(n)) await expectMoved(n)
        }
        if (what === 'giveBack') await store.giveBack(digest)
        if (what === 'vanish') {
          const { bytesKept = 0 } = (await store.blob(digest)) ?? {}
          await rm(pathOf(n), { force: true })
          files.delete(n)
          await store.giveBack(digest)
          assert.equal((await store.blob(digest))?.bytesKept ?? 0, bytesKept)
        }
        if (what === 'remove') {
          await store.remove(digest)
          marks[n] = []
        }
        if (what === 'keep') {
          marks[n] = more ? [0, index * BLOCK_SIZE] : []
          await store.keep(digest, marks[n])
        }
        if (what === 'pin' && (await store.blob(digest))) await store.pin(digest, more)
        const { borrowed } = store.usage()
        if (what === 'trim') {
          await store.trim(digest)
          await expectOnlyKept(n)
        }
        if (what === 'gc') {
          await store.collect(undefined, { all: true })
          for (const of of layers.keys()) await expectOnlyKept(of)
        }
        if (what === 'trim' || what === 'gc') assert.equal(store.usage().borrowed, borrowed)
        if (what === 'scrub') {
          // A file that went without a word.
          if (more) {
            await rm(pathOf(n), { force: true })
            files.delete(n)
          }
          const scrubbed = await store.scrub({ bytesPerSecond: 1e12, signal })
          assert.equal(scrubbed.bad, 0)
          assert.ok(scrubbed.bytes <= store.usage().bytes + borrowed)
        }
        if (what === 'drop') await store.dropSegment(digest, index * BLOCK_SIZE)
        if (what === 'restart' || what === 'crash') {
          await store.close()
          if (what === 'crash') await rm(join(dir, 'clean.json'))
          store = await openBlockStore({ dir, memoBlocks: 0 })
        }
        await check()
      }
      await store.close()
      for (const n of files) await rm(pathOf(n))
      await rm(dir, { recursive: true })

      async function isBorrowed(n: number): Promise<boolean> {
        return (await store.blob(layers[n]!.digest))?.borrowedFrom !== undefined
      }

      /** What a borrowed blob still has in own files is kept, or of a pinned blob, here or in another blob. */
      async function expectMoved(n: number): Promise<void> {
        const own = await filesIn(dir)
        const stay = new Set<string>()
        for (const [of, { digest }] of layers.entries()) {
          const pinned = (await store.blob(digest))?.pinned
          for (const { cid, offset } of await store.segments(digest))
            if (pinned || marks[of]!.includes(offset)) stay.add(cid)
        }
        for (const { cid } of await store.segments(layers[n]!.digest))
          assert.ok(stay.has(cid) || !own.includes(cid), 'it could have moved')
      }

      /** Of a blob that is not pinned: of its own, no more than its share. */
      async function expectOnlyKept(of: number): Promise<void> {
        const blob = await store.blob(layers[of]!.digest)
        if (!blob || blob.pinned) return
        const own = await filesIn(dir)
        for (const { cid, offset } of await store.segments(blob.digest)) {
          assert.ok(marks[of]!.includes(offset) || !own.includes(cid))
        }
      }

      async function check(): Promise<void> {
        const sizes = new Map<string, number>()
        const own = await filesIn(dir)
        for (const blob of await all(store.blobs())) {
          const { bytes } = layers.find(({ digest }) => digest === blob.digest)!
          const wanted = marks[layers.findIndex(({ digest }) => digest === blob.digest)]!
          let here = 0
          let kept = 0
          for (const { cid, offset, length } of await store.segments(blob.digest)) {
            assert.ok((await store.read(cid)).equals(bytes.subarray(offset, offset + length)))
            sizes.set(cid, length)
            here += length
            if (!wanted.includes(offset)) continue
            kept += length
            assert.ok(own.includes(cid), 'a share has own files')
          }
          assert.deepEqual(
            await store.kept(blob.digest),
            [...new Set(wanted)].sort((a, b) => a - b),
          )
          assert.equal(blob.bytesHere, here)
          assert.equal(blob.bytesKept, kept)
          if (blob.complete) assert.equal(here, bytes.length)
        }
        const sum = (cids: string[]): number => cids.reduce((total, cid) => total + sizes.get(cid)!, 0)
        const lent = [...sizes.keys()].filter((cid) => !own.includes(cid))
        assert.deepEqual(store.usage(), {
          bytes: sum(own),
          blocks: own.length,
          borrowed: sum(lent),
          quota: undefined,
        })
      }
    }),
    { numRuns: 40 },
  )
})
