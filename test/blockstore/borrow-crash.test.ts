import assert from 'node:assert/strict'
import { fork } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { BLOCK_SIZE, openBlockStore } from '../../blockstore/index.ts'
import { all, filesIn, scratch } from './tools.ts'

const CHILD = new URL('./borrow-crash-child.ts', import.meta.url)

test('killed while it borrows and gives back, the store has every block that it had, once', async (t) => {
  const dir = await scratch(t)
  const root = join(dir, 'store')
  // The layers have blocks of their own, and no more than one in common with another that comes and goes by itself.
  const paths = await Promise.all(
    [1, 2, 3].map(async (n) => {
      const path = join(dir, `layer ${n}`)
      const zeros = Buffer.alloc(n === 3 ? 2 * BLOCK_SIZE : 0)
      await writeFile(path, Buffer.concat([randomBytes(n * BLOCK_SIZE + 100), zeros]))
      return path
    }),
  )
  const before = await Promise.all(paths.map((path) => readFile(path)))
  for (let round = 0; round < 8; round++) {
    const child = fork(CHILD, [root, ...paths], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
    const whole = new Set<string>()
    child.on('message', (line: { whole?: string; leaving?: string }) => {
      if (line.whole) whole.add(line.whole)
      if (line.leaving) whole.delete(line.leaving)
    })
    await once(child, 'message')
    await delay(Math.random() * 400)
    child.kill('SIGKILL')
    await once(child, 'close')
    assert.equal(child.signalCode, 'SIGKILL')

    const store = await openBlockStore({ dir: root })
    const sizes = new Map<string, number>()
    const files = await filesIn(root)
    for (const blob of await all(store.blobs())) {
      const marks = await store.kept(blob.digest)
      let bytes = 0
      let kept = 0
      for (const { cid, offset, length } of await store.segments(blob.digest)) {
        assert.equal((await store.read(cid)).length, length)
        sizes.set(cid, length)
        bytes += length
        if (!marks.includes(offset)) continue
        kept += length
        assert.ok(files.includes(cid), 'a share has own files')
      }
      assert.equal(blob.bytesHere, bytes)
      assert.equal(blob.bytesKept, kept)
      assert.ok(!blob.complete || blob.size === bytes)
      whole.delete(blob.complete ? blob.digest : '')
    }
    assert.deepEqual([...whole], [], 'what was whole is whole')
    const own = files.reduce((sum, cid) => sum + (sizes.get(cid) ?? assert.fail(`a stray: ${cid}`)), 0)
    const borrowed = [...sizes].reduce((sum, [cid, size]) => sum + (files.includes(cid) ? 0 : size), 0)
    assert.deepEqual(store.usage(), { bytes: own, blocks: files.length, borrowed, quota: undefined })
    await store.close()
  }
  for (const [i, path] of paths.entries()) assert.ok((await readFile(path)).equals(before[i]!), 'left alone')
})
