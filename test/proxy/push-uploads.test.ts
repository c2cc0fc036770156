import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { digestOf } from '../../base/index.ts'
import {
  assertRefused,
  begin,
  bytesOf,
  leftOf,
  locationOf,
  pushBlob,
  pushImage,
  pushNode,
} from './push-tools.ts'

const NAME = 'local/team/app'

describe('blobs are pushed', () => {
  test('in one POST', async (t) => {
    const node = await pushNode(t)
    const bytes = bytesOf(2_500_000)
    const digest = digestOf(bytes)
    const answer = await node.get(`/v2/${NAME}/blobs/uploads/?digest=${digest}`, {}, 'POST', bytes)
    assert.equal(answer.status, 201)
    assert.equal(answer.headers['docker-content-digest'], digest)
    const got = await node.get(locationOf(answer))
    assert.equal(got.status, 200)
    assert.deepEqual(got.body, bytes)
    const head = await node.get(locationOf(answer), {}, 'HEAD')
    assert.equal(head.headers['content-length'], String(bytes.length))
    const part = await node.get(locationOf(answer), { Range: 'bytes=1048570-1048579' })
    assert.equal(part.status, 206)
    assert.deepEqual(part.body, bytes.subarray(1_048_570, 1_048_580))
    assert.deepEqual(await leftOf(node), [])
  })

  test('in POST and PUT', async (t) => {
    const node = await pushNode(t)
    const bytes = bytesOf(5000)
    const digest = digestOf(bytes)
    const place = await begin(node, NAME)
    const answer = await node.get(`${place}?digest=${digest}`, {}, 'PUT', bytes)
    assert.equal(answer.status, 201)
    assert.equal(answer.headers.location, `/v2/${NAME}/blobs/${digest}`)
    // The upload is over.
    assertRefused(await node.get(place), 404, 'BLOB_UPLOAD_UNKNOWN')
  })

  test('in chunks, the last one with the PUT or before it', async (t) => {
    const node = await pushNode(t)
    const bytes = bytesOf(30_000)
    const digest = digestOf(bytes)
    for (const last of [true, false]) {
      let place = await begin(node, NAME)
      for (const [from, to] of [[0, 10_000], [10_000, 20_000], ...(last ? [] : [[20_000, 30_000]])] as [
        number,
        number,
      ][]) {
        const range = { 'Content-Range': `${from}-${to - 1}` }
        const answer = await node.get(place, range, 'PATCH', bytes.subarray(from, to))
        assert.equal(answer.status, 202, answer.body.toString())
        assert.equal(answer.headers.range, `0-${to - 1}`)
        place = locationOf(answer)
        const status = await node.get(place)
        assert.equal(status.status, 204)
        assert.equal(status.headers.range, `0-${to - 1}`)
        assert.equal(status.headers.location, place)
      }
      const rest = last ? bytes.subarray(20_000) : undefined
      const headers: Record<string, string> = last ? { 'Content-Range': '20000-29999' } : {}
      const answer = await node.get(`${place}?digest=${digest}`, headers, 'PUT', rest)
      assert.equal(answer.status, 201, answer.body.toString())
    }
    assert.deepEqual((await node.get(`/v2/${NAME}/blobs/${digest}`)).body, bytes)
  })

  test('streamed without lengths and ranges, as docker does', async (t) => {
    const node = await pushNode(t)
    const bytes = bytesOf(100_000)
    const place = await begin(node, NAME)
    const headers = { 'Transfer-Encoding': 'chunked' }
    const answer = await node.get(place, headers, 'PATCH', bytes)
    assert.equal(answer.status, 202)
    assert.equal(answer.headers.range, '0-99999')
    assert.equal((await node.get(`${place}?digest=${digestOf(bytes)}`, {}, 'PUT')).status, 201)
  })

  test('by sha512, and of no bytes at all', async (t) => {
    const node = await pushNode(t)
    for (const bytes of [bytesOf(70_000), Buffer.alloc(0)]) {
      const digest = digestOf(bytes, 'sha512')
      const place = await begin(node, NAME)
      assert.equal((await node.get(`${place}?digest=${digest}`, {}, 'PUT', bytes)).status, 201)
      const got = await node.get(`/v2/${NAME}/blobs/${digest}`)
      assert.equal(got.status, 200)
      assert.deepEqual(got.body, bytes)
    }
    const nothing = await pushBlob(node, NAME, Buffer.alloc(0))
    assert.equal((await node.get(`/v2/${NAME}/blobs/${nothing}`, {}, 'HEAD')).headers['content-length'], '0')
  })

  test('out of order: 416 with the range that is here, and it goes on from there', async (t) => {
    const node = await pushNode(t)
    const bytes = bytesOf(2000)
    const place = await begin(node, NAME)
    const send = (from: number, to: number) =>
      node.get(place, { 'Content-Range': `${from}-${to - 1}` }, 'PATCH', bytes.subarray(from, to))
    const early = await send(1000, 2000)
    assertRefused(early, 416, 'BLOB_UPLOAD_INVALID')
    assert.equal((await send(0, 1000)).status, 202)
    const again = await send(0, 1000)
    assertRefused(again, 416, 'BLOB_UPLOAD_INVALID')
    assert.equal(again.headers.range, '0-999')
    assert.equal(again.headers.location, place)
    assert.equal((await send(1000, 2000)).status, 202)
    assert.equal((await node.get(`${place}?digest=${digestOf(bytes)}`, {}, 'PUT')).status, 201)
  })

  test('given up with DELETE: nothing is left', async (t) => {
    const node = await pushNode(t)
    const place = await begin(node, NAME)
    await node.get(place, {}, 'PATCH', bytesOf(100))
    assert.equal((await leftOf(node)).length, 1)
    assert.equal((await node.get(place, {}, 'DELETE')).status, 204)
    assertRefused(await node.get(place, {}, 'PATCH', bytesOf(1)), 404, 'BLOB_UPLOAD_UNKNOWN')
    assert.deepEqual(await leftOf(node), [])
  })

  test('mounted from another local repository, else begun', async (t) => {
    const node = await pushNode(t)
    const bytes = bytesOf(1000)
    const digest = await pushBlob(node, 'local/from', bytes)
    const mount = (query: string) =>
      node.get(`/v2/${NAME}/blobs/uploads/?mount=${digest}${query}`, {}, 'POST')
    const done = await mount('&from=local/from')
    assert.equal(done.status, 201)
    assert.equal(done.headers.location, `/v2/${NAME}/blobs/${digest}`)
    assert.deepEqual((await node.get(locationOf(done))).body, bytes)
    for (const query of ['', '&from=local/none', '&from=docker.io/library/redis', '&from=../x']) {
      const answer = await node.get(`/v2/local/other/blobs/uploads/?mount=${digest}${query}`, {}, 'POST')
      if (query === '&from=../x') assertRefused(answer, 400, 'NAME_INVALID')
      else assert.equal(answer.status, 202, query)
    }
    assertRefused(await node.get(`/v2/local/other/blobs/${digest}`), 404, 'BLOB_UNKNOWN')
  })

  test('a blob that was evicted and that no manifest names has to be uploaded again', async (t) => {
    const node = await pushNode(t)
    const loose = await pushBlob(node, NAME, bytesOf(1000))
    const { manifest, layer } = await pushImage(node, NAME, 'v1')
    const kept = digestOf(layer)
    const head = (digest: string) => node.get(`/v2/${NAME}/blobs/${digest}`, {}, 'HEAD')
    const mount = (digest: string) =>
      node.get(`/v2/local/other/blobs/uploads/?mount=${digest}&from=${NAME}`, {}, 'POST')
    assert.equal((await head(loose)).status, 200)
    for (const digest of [loose, kept]) node.manager.contents.delete(digest)
    assert.equal((await head(loose)).status, 404)
    assert.equal((await mount(loose)).status, 202)
    // The site keeps what a manifest names, if not here.
    const answer = await head(kept)
    assert.equal(answer.status, 200)
    assert.equal(answer.headers['content-length'], '3000')
    assert.equal((await mount(kept)).status, 201)
    const digest = digestOf(Buffer.from(JSON.stringify(manifest)))
    assert.equal((await node.get(`/v2/${NAME}/manifests/${digest}`, {}, 'DELETE')).status, 202)
    assert.equal((await head(kept)).status, 404)
  })

  test('under ?ns=local, with the same in every Location', async (t) => {
    const node = await pushNode(t)
    const bytes = bytesOf(10)
    const begun = await node.get('/v2/app/blobs/uploads/?ns=local', {}, 'POST')
    const place = locationOf(begun, `digest=${digestOf(bytes)}`)
    assert.match(place, /\?ns=local&/)
    const done = await node.get(place, {}, 'PUT', bytes)
    assert.equal(done.status, 201)
    assert.deepEqual((await node.get(locationOf(done))).body, bytes)
    assert.deepEqual((await node.get(`/v2/local/app/blobs/${digestOf(bytes)}`)).body, bytes)
  })

  test('again, or under another name: its blocks are not written twice', async (t) => {
    const node = await pushNode(t)
    const bytes = bytesOf(2_000_000)
    await pushBlob(node, NAME, bytes)
    const before = node.store.usage()
    await pushBlob(node, NAME, bytes)
    await pushBlob(node, 'local/twice', bytes)
    assert.deepEqual(node.store.usage(), before)
  })

  test('what is half here from elsewhere is completed, and what is not here is not known', async (t) => {
    const node = await pushNode(t)
    const bytes = bytesOf(2_000_000)
    const digest = digestOf(bytes)
    await node.store.putSegment(digest, { offset: 0 }, bytes.subarray(0, 2 ** 20))
    assertRefused(await node.get(`/v2/${NAME}/blobs/${digest}`), 404, 'BLOB_UNKNOWN')
    await pushBlob(node, NAME, bytes)
    assert.equal((await node.store.blob(digest))?.complete, true)
    assert.deepEqual((await node.get(`/v2/${NAME}/blobs/${digest}`)).body, bytes)
  })
})
