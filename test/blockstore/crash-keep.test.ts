import assert from 'node:assert/strict'
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { openBlockStore } from '../../blockstore/index.ts'
import { all, blobNamed, filesIn, marksOf, scratch, stagedIn } from './tools.ts'

const CHILD = new URL('./crash-keep-child.ts', import.meta.url)

test('killed amid keeping, trimming, evicting and scrubbing, nothing kept is lost and index and disk agree', async (t) => {
  const dir = await scratch(t)
  /** By blob, over all rounds: the marks that were acknowledged last, and its blocks. */
  const versions = new Map<string, number>()
  const blocks = new Map<string, Map<number, string>>()
  let checked = 0
  for (let round = 0; round < 6; round++) {
    const child = fork(CHILD, [dir, String(round)], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
    let bad = 0
    child.on('message', (line: { kept?: [string, number]; put?: [string, number, string]; bad?: number }) => {
      if (line.kept) versions.set(...line.kept)
      if (line.bad) bad += line.bad
      if (!line.put) return
      const [name, offset, cid] = line.put
      blocks.set(name, (blocks.get(name) ?? new Map()).set(offset, cid))
    })
    await once(child, 'message')
    await delay(50 + Math.random() * 400)
    child.kill('SIGKILL')
    await once(child, 'close')
    assert.equal(child.signalCode, 'SIGKILL')
    assert.equal(bad, 0)

    const store = await openBlockStore({ dir })
    for (const [name, version] of versions) {
      const digest = blobNamed(name)
      const kept = await store.kept(digest)
      // The one that was under way may have come through unheard.
      const fit = [marksOf(version), marksOf(version + 1)].some((marks) => String(marks) === String(kept))
      assert.ok(fit, `${name}: ${kept} at version ${version}`)
      const segments = new Map((await store.segments(digest)).map((segment) => [segment.offset, segment]))
      let bytes = 0
      for (const offset of kept) {
        const cid = blocks.get(name)?.get(offset)
        const segment = segments.get(offset)
        if (cid) {
          assert.equal(segment?.cid, cid, `${name} at ${offset}`)
          await store.read(cid)
          checked++
        }
        bytes += segment?.length ?? 0
      }
      if (kept.length > 0) assert.equal((await store.blob(digest))?.bytesKept, bytes)
    }
    const indexed = new Set<string>()
    for (const blob of await all(store.blobs())) {
      let bytes = 0
      for (const { cid, length } of await store.segments(blob.digest)) {
        indexed.add(cid)
        bytes += length
      }
      assert.equal(blob.bytesHere, bytes)
    }
    assert.deepEqual((await filesIn(dir)).sort(), [...indexed].sort())
    assert.equal(store.usage().blocks, indexed.size)
    assert.deepEqual(await stagedIn(dir), [])
    await store.close()
  }
  assert.ok(checked > 20, `${checked}`)
})
