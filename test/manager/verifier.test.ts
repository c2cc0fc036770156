import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'
import { createBell } from '../../manager/tasks/bell.ts'
import type { Blocks } from '../../manager/tasks/blocks.ts'
import { createBufferPool } from '../../manager/tasks/buffers.ts'
import { createVerifier } from '../../manager/tasks/verifier.ts'

/** A blob whose blocks are all here; counts what is read of them. */
function blob(count: number) {
  const parts = Array.from({ length: count }, (_, i) => Buffer.alloc(1000, i))
  const digest = `sha256:${createHash('sha256').update(Buffer.concat(parts)).digest('hex')}`
  const bell = createBell()
  const read: number[] = []
  const blocks = {
    digest,
    count,
    bell,
    has: () => true,
    read: async (index: number) => {
      read.push(index)
      return parts[index]!
    },
  } as unknown as Blocks
  const readers = new Map<number, number>()
  const verifier = createVerifier({ blocks, pool: createBufferPool({ keep: 1 }), readers })
  /** A client has come as far as the block, which is loaded for it. */
  const load = (id: number, index: number) => {
    readers.set(id, index)
    verifier.offer(index, parts[index]!)
    bell.ring()
  }
  return { verifier, readers, read, load }
}

test('what a reader loads is hashed as it is, all but the last block', async () => {
  const { verifier, readers, read, load } = blob(6)
  readers.set(1, 0)
  const verdict = verifier.run(AbortSignal.timeout(10_000))
  for (let index = 0; index < 5; index++) {
    await new Promise(setImmediate)
    load(1, index)
  }
  assert.equal(await verdict, true)
  assert.deepEqual(read, [5])
})

test('a slow reader holds up nobody who is further', async () => {
  const { verifier, readers, read, load } = blob(40)
  readers.set(1, 0)
  readers.set(2, 39)
  const began = performance.now()
  const verdict = verifier.run(AbortSignal.timeout(10_000))
  await new Promise(setImmediate)
  load(1, 0)
  assert.equal(await verdict, true)
  assert.ok(read.length >= 39, 'the blocks were read, not waited for')
  assert.ok(performance.now() - began < 5000)
})

test('a reader that stays away is waited for a moment only', async () => {
  const { verifier, readers, read } = blob(2)
  readers.set(1, 0)
  assert.equal(await verifier.run(AbortSignal.timeout(10_000)), true)
  assert.deepEqual(read, [0, 1])
})
