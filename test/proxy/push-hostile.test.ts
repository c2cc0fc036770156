import assert from 'node:assert/strict'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { digestOf, ShoalError, silentLog } from '../../base/index.ts'
import { createUploads } from '../../proxy/push/uploads.ts'
import {
  assertRefused,
  begin,
  bytesOf,
  leftOf,
  pushBlob,
  pushImage,
  pushNode,
  putManifest,
  raw,
  talk,
} from './push-tools.ts'
import { eventually } from './registry-tools.ts'

const NAME = 'local/app'
const OTHER = digestOf(Buffer.from('something else'))

describe('pushes that lie', () => {
  test('about the digest: refused, and nothing of it stays', async (t) => {
    const node = await pushNode(t)
    const bytes = bytesOf(1_500_000)
    const posted = await node.get(`/v2/${NAME}/blobs/uploads/?digest=${OTHER}`, {}, 'POST', bytes)
    assertRefused(posted, 400, 'DIGEST_INVALID')
    const place = await begin(node, NAME)
    assertRefused(await node.get(`${place}?digest=sha256:zz`, {}, 'PUT', bytes), 400, 'DIGEST_INVALID')
    assertRefused(await node.get(place, {}, 'PUT', bytes), 400, 'DIGEST_INVALID')
    assertRefused(await node.get(`${place}?digest=${OTHER}`, {}, 'PUT', bytes), 400, 'DIGEST_INVALID')
    assertRefused(await node.get(place), 404, 'BLOB_UPLOAD_UNKNOWN')
    const sha512 = digestOf(Buffer.from('other'), 'sha512')
    const long = await begin(node, NAME)
    assertRefused(await node.get(`${long}?digest=${sha512}`, {}, 'PUT', bytes), 400, 'DIGEST_INVALID')
    assertRefused(await node.get(`/v2/${NAME}/blobs/${OTHER}`), 404, 'BLOB_UNKNOWN')
    assert.deepEqual(await leftOf(node), [])
    assert.equal(node.store.usage().blocks, 0)
  })

  test('about the size of a chunk: none of it counts', async (t) => {
    const node = await pushNode(t)
    const bytes = bytesOf(1000)
    const place = await begin(node, NAME)
    const lie = { 'Content-Range': '0-1999' }
    assertRefused(await node.get(place, lie, 'PATCH', bytes), 400, 'SIZE_INVALID')
    const chunked = { ...lie, 'Transfer-Encoding': 'chunked' }
    assertRefused(await node.get(place, chunked, 'PATCH', bytes), 400, 'SIZE_INVALID')
    const short = { 'Content-Range': '0-499', 'Transfer-Encoding': 'chunked' }
    assertRefused(await node.get(place, short, 'PATCH', bytes), 400, 'SIZE_INVALID')
    for (const range of ['x', '5-2', '0-', '0-99999999999999999999']) {
      const answer = await node.get(place, { 'Content-Range': range }, 'PATCH', bytes)
      assertRefused(answer, 400, 'BLOB_UPLOAD_INVALID')
    }
    assert.equal((await node.get(`${place}?digest=${digestOf(bytes)}`, {}, 'PUT', bytes)).status, 201)
  })

  test('about Content-Length: a body that ends early leaves an upload to go on with', async (t) => {
    const node = await pushNode(t)
    const bytes = bytesOf(1000)
    const place = await begin(node, NAME)
    const head = `PATCH ${place} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n`
    await raw(node.base, [head, bytes.subarray(0, 600)], { end: true })
    await eventually('600 bytes are here', async () => (await node.get(place)).headers.range === '0-599')
    const range = { 'Content-Range': '600-999' }
    const rest = bytes.subarray(600)
    // Till the node has seen the connection end, the upload is busy.
    await eventually('it goes on', async () => {
      const { status } = await node.get(`${place}?digest=${digestOf(bytes)}`, range, 'PUT', rest)
      return status === 201
    })
    // Of one POST nobody knows the upload: it goes.
    const post = `POST /v2/${NAME}/blobs/uploads/?digest=${OTHER} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n`
    await raw(node.base, [post, bytes.subarray(0, 600)], { end: true })
    await eventually('nothing is left', async () => (await leftOf(node)).length === 0)
  })

  test('with an endless body: 413, while it is still coming', async (t) => {
    const node = await pushNode(t, { push: { config: { maxBlob: 2 ** 20 } } })
    const place = await begin(node, NAME)
    const { socket, closed, heard } = talk(node.base)
    socket.write(`PATCH ${place} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n`)
    const chunk = Buffer.concat([Buffer.from('10000\r\n'), bytesOf(65_536), Buffer.from('\r\n')])
    const pour = (): void => {
      if (!socket.destroyed) socket.write(chunk, () => setTimeout(pour, 1))
    }
    pour()
    await closed
    assert.match(heard(), /^HTTP\/1.1 413 .*"SIZE_INVALID"/s)
    assert.deepEqual(await leftOf(node), [])
    const long = { 'Content-Length': String(2 ** 40) }
    const said = `POST /v2/${NAME}/blobs/uploads/?digest=${OTHER} HTTP/1.1\r\nHost: x\r\nContent-Length: ${long['Content-Length']}\r\n\r\n`
    assert.match(await raw(node.base, [said, bytesOf(1000)]), /^HTTP\/1.1 413 .*"SIZE_INVALID"/s)
    assert.deepEqual(await leftOf(node), [])
  })

  test('with names that are paths', async (t) => {
    const node = await pushNode(t)
    for (const name of [
      'local/../x',
      'local/..%2fx',
      'local/A',
      'local/a%00',
      'local//a',
      'local/%2e%2e',
      'local/.a',
    ]) {
      const answer = await node.get(`/v2/${name}/blobs/uploads/`, {}, 'POST')
      assertRefused(answer, 400, 'NAME_INVALID')
      assertRefused(await putManifest(node, name, 'v1', {}), 400, 'NAME_INVALID')
    }
    assertRefused(await node.get(`/v2/${NAME}/blobs/uploads/..%2f..%2fapi.token`), 400, 'NAME_INVALID')
    assertRefused(await node.get(`/v2/${NAME}/blobs/uploads/..`, {}, 'DELETE'), 404, 'BLOB_UPLOAD_UNKNOWN')
    assert.deepEqual(await leftOf(node), [])
  })
})

describe('pushes that are too much', () => {
  test('10,000 half-open uploads: so many, then 429; idle ones give way, and expire', async (t) => {
    const node = await pushNode(t)
    // On a few connections, one request behind the other: else the client's ports run out first.
    const request = `POST /v2/${NAME}/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n`
    const answers = await Promise.all(
      Array.from({ length: 10 }, async () => {
        const { socket, closed, heard } = talk(node.base)
        socket.write(request.repeat(999))
        socket.write(request.replace('Host: x', 'Host: x\r\nConnection: close'))
        await closed
        return heard()
      }),
    )
    const statuses = new Map<string, number>()
    for (const [, status = ''] of answers.join('').matchAll(/HTTP\/1\.1 (\d+)/g)) {
      statuses.set(status, (statuses.get(status) ?? 0) + 1)
    }
    assert.deepEqual([...statuses].sort(), [
      ['202', 256],
      ['429', 9744],
    ])
    assert.equal(answers.join('').match(/^Retry-After:/gim)?.length, 9744)
    assert.deepEqual(await leftOf(node), [])
    node.clock.ahead = 61_000
    const place = await begin(node, NAME)
    await node.get(place, {}, 'PATCH', bytesOf(10))
    assert.equal((await leftOf(node)).length, 1)
    node.clock.ahead += 61_000
    for (let i = 0; i < 256; i++) await node.get(`/v2/${NAME}/blobs/uploads/`, {}, 'POST')
    assertRefused(await node.get(place), 404, 'BLOB_UPLOAD_UNKNOWN')
    assert.deepEqual(await leftOf(node), [])
  })

  test('large manifests at once: so many, then 429', async (t) => {
    const node = await pushNode(t)
    const path = `/v2/${NAME}/manifests/v1`
    const slow = Array.from({ length: 2 }, () => talk(node.base))
    for (const { socket } of slow) {
      socket.write(`PUT ${path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n`)
    }
    await eventually('there is no room', async () => (await putManifest(node, NAME, 'v1', {})).status === 429)
    for (const { socket } of slow) socket.destroy()
    await eventually('there is again', async () => (await putManifest(node, NAME, 'v1', {})).status === 400)
  })

  test('an upload of one repository is none of another', async (t) => {
    const node = await pushNode(t)
    const place = await begin(node, NAME)
    assertRefused(await node.get(place.replace(NAME, 'local/b')), 404, 'BLOB_UPLOAD_UNKNOWN')
  })

  test('two requests at once on one upload: the second is refused', async (t) => {
    const node = await pushNode(t)
    const place = await begin(node, NAME)
    const { socket } = talk(node.base)
    socket.write(`PATCH ${place} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc`)
    await eventually('it writes', async () => (await node.get(place)).headers.range === '0-2')
    assertRefused(await node.get(place, {}, 'PATCH', bytesOf(10)), 409, 'BLOB_UPLOAD_INVALID')
    socket.destroy()
    const range = { 'Content-Range': '3-12' }
    await eventually(
      'it goes on',
      async () => (await node.get(place, range, 'PATCH', bytesOf(10))).status === 202,
    )
  })

  test('an upload given up while its bytes come: they stop, and nothing is left', async (t) => {
    const node = await pushNode(t)
    const place = await begin(node, NAME)
    const { socket, closed, heard } = talk(node.base)
    socket.write(`PATCH ${place} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc`)
    await eventually('it writes', async () => (await node.get(place)).headers.range === '0-2')
    assert.equal((await node.get(place, {}, 'DELETE')).status, 204)
    socket.write('def')
    await closed
    assert.match(heard(), /^HTTP\/1.1 404 .*"BLOB_UPLOAD_UNKNOWN"/s)
    assert.deepEqual(await leftOf(node), [])
  })

  test('a disk without room: 507, and the upload goes', async (t) => {
    const { dir } = await pushNode(t)
    let free = 2 ** 40
    const uploads = createUploads({
      dir: join(dir, 'more'),
      maxBlob: 2 ** 40,
      most: 10,
      log: silentLog(),
      now: Date.now,
      freeBytes: async () => free,
    })
    await uploads.start()
    t.after(() => uploads.close())
    async function* filling(): AsyncGenerator<Uint8Array> {
      for (let i = 0; i < 40; i++) {
        if (i === 20) free = 1000
        yield bytesOf(2 ** 20)
      }
    }
    const upload = await uploads.begin('app')
    const full = {
      message: /no room/,
      details: { answer: { status: 507, code: 'UNAVAILABLE', headers: {} } },
    }
    await assert.rejects(upload.add(filling()), full)
    assert.throws(() => uploads.get('app', upload.id))
    const late = await uploads.begin('app')
    await assert.rejects(late.add(filling(), 2 ** 30), full)
  })

  test('a quota without room for the blob: 507, and nothing of it stays', async (t) => {
    const node = await pushNode(t, { quota: 2 ** 20 })
    const bytes = bytesOf(3 * 2 ** 20)
    const answer = await node.get(`/v2/${NAME}/blobs/uploads/?digest=${digestOf(bytes)}`, {}, 'POST', bytes)
    assertRefused(answer, 507, 'UNAVAILABLE')
    assert.deepEqual(await leftOf(node), [])
    assertRefused(await node.get(`/v2/${NAME}/blobs/${digestOf(bytes)}`), 404, 'BLOB_UNKNOWN')
    await pushBlob(node, NAME, bytesOf(1000))
  })
})

describe('pushes that are none', () => {
  test('to a mirrored registry: 405 that names local/', async (t) => {
    const node = await pushNode(t)
    for (const [path, method] of [
      ['/v2/library/redis/blobs/uploads/', 'POST'],
      ['/v2/quay.io/a/b/blobs/uploads/', 'POST'],
      ['/v2/library/redis/manifests/7', 'PUT'],
      ['/v2/library/redis/manifests/7', 'DELETE'],
      ['/v2/app/manifests/7?ns=ghcr.io', 'PUT'],
    ] as const) {
      const answer = await node.get(path, {}, method)
      assertRefused(answer, 405, 'UNSUPPORTED')
      assert.match(answer.json().errors?.[0]?.message ?? '', /local\/NAME/)
    }
    for (const [path, method] of [
      ['/v2/', 'POST'],
      [`/v2/${NAME}/tags/list`, 'POST'],
      [`/v2/${NAME}/blobs/${OTHER}`, 'PUT'],
      [`/v2/${NAME}/manifests/v1`, 'PATCH'],
      [`/v2/${NAME}/blobs/uploads/`, 'GET'],
      [`/v2/${NAME}/tags/list`, 'DELETE'],
    ] as const) {
      assertRefused(await node.get(path, {}, method), 405, 'UNSUPPORTED')
    }
  })

  test('by somebody who may not: 401 with a challenge, and reading goes on', async (t) => {
    let allowed = true
    const authorize = (): void => {
      if (allowed) return
      const details = { challenge: 'Basic realm="shoal"' }
      throw new ShoalError('UNAUTHORIZED', 'the token is needed', { details })
    }
    const node = await pushNode(t, { push: { authorize } })
    const image = await pushImage(node, NAME, 'v1')
    const place = await begin(node, NAME)
    allowed = false
    for (const answer of [
      await node.get(`/v2/${NAME}/blobs/uploads/`, {}, 'POST'),
      await node.get(place),
      await node.get(place, {}, 'PATCH', bytesOf(100)),
      await putManifest(node, NAME, 'v2', image.bytes),
      await node.get(`/v2/${NAME}/manifests/v1`, {}, 'DELETE'),
    ]) {
      assertRefused(answer, 401, 'UNAUTHORIZED')
      assert.equal(answer.headers['www-authenticate'], 'Basic realm="shoal"')
    }
    assert.equal((await node.get(`/v2/${NAME}/manifests/v1`)).status, 200)
  })

  test('what a run before this one left is removed at the start', async (t) => {
    const first = await pushNode(t)
    const place = await begin(first, NAME)
    await first.get(place, {}, 'PATCH', bytesOf(100))
    const { dir } = first
    await first.stop()
    await mkdir(join(dir, 'uploads/odd'))
    await writeFile(join(dir, 'uploads/left'), 'over')
    const second = await pushNode(t, { dir })
    assert.deepEqual(await leftOf(second), [])
    assertRefused(await second.get(place), 404, 'BLOB_UPLOAD_UNKNOWN')
  })
})
