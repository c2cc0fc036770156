import assert from 'node:assert/strict'
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { digestOf } from '../../base/index.ts'
import { openBlockStore } from '../../blockstore/index.ts'
import { all, filesIn, scratch, stagedIn, storeIn } from './tools.ts'

const CHILD = new URL('./crash-child.ts', import.meta.url)

test('killed at any moment of its work, the store comes back with all that it acknowledged', async (t) => {
  const dir = await scratch(t)
  for (let round = 0; round < 6; round++) {
    const child = fork(CHILD, [dir, String(round)], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
    /** What the child had been told is stored, by its digest and offset. */
    const acknowledged = new Map<string, string>()
    child.on('message', (line: { put?: [string, string]; drop?: string }) => {
      if (line.put) acknowledged.set(...line.put)
      if (line.drop)
        for (const place of acknowledged.keys()) if (place.startsWith(line.drop)) acknowledged.delete(place)
    })
    await once(child, 'message')
    await delay(20 + Math.random() * 300)
    child.kill('SIGKILL')
    await once(child, 'close')
    assert.equal(child.signalCode, 'SIGKILL')

    const store = await openBlockStore({ dir })
    assert.deepEqual(await stagedIn(dir), [])
    const indexed = new Set<string>()
    const places = new Map<string, string>()
    let bytesHere = 0
    for (const blob of await all(store.blobs())) {
      let bytes = 0
      for (const { cid, offset, length } of await store.segments(blob.digest)) {
        assert.equal((await store.read(cid)).length, length)
        indexed.add(cid)
        places.set(`${blob.digest} ${offset}`, cid)
        bytes += length
      }
      assert.equal(blob.bytesHere, bytes)
      assert.ok(!blob.complete || blob.size === bytes)
      bytesHere += bytes
    }
    assert.deepEqual((await filesIn(dir)).sort(), [...indexed].sort())
    assert.equal(store.usage().blocks, indexed.size)
    assert.ok(bytesHere >= store.usage().bytes)
    for (const [place, cid] of acknowledged) assert.equal(places.get(place), cid, `${place} was acknowledged`)
    assert.ok(acknowledged.size > 0)
    assert.equal((await store.records<number>('round').get('begun')) ?? -1, round)
    await store.close()
  }
})

test('two stores on one directory: the second is told which one is taken, the first goes on', async (t) => {
  const dir = await scratch(t)
  const store = await storeIn(t, dir)
  const digest = digestOf(Buffer.from('x'))
  const locked = { code: 'STORE_LOCKED', message: new RegExp(dir) }
  await assert.rejects(openBlockStore({ dir }), locked)
  // From another process too, and what the first is writing stays.
  const put = store.putSegment(digest, { offset: 0 }, Buffer.alloc(500_000))
  const child = fork(CHILD, [dir, '0'], { stdio: ['ignore', 'ignore', 'ignore', 'ipc'] })
  const [message] = await once(child, 'message')
  assert.equal(message.failed, 'STORE_LOCKED')
  await once(child, 'close')
  const cid = await put
  assert.equal((await store.read(cid)).length, 500_000)
  await store.close()
  await (await openBlockStore({ dir })).close()
})
