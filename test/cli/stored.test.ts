import assert from 'node:assert/strict'
import { after, before, beforeEach, describe, test } from 'node:test'
import { ShoalError } from '../../base/index.ts'
import { imageViews } from '../../cli/api/views.ts'
import { imageLines } from '../../cli/commands/images.ts'
import { storeLines } from '../../cli/progress.ts'
import { assertDescribed } from './described.ts'
import { shoal } from './shoal.ts'
import { digest, startApi } from './standins.ts'

const REDIS = 'docker.io/library/redis:7'

describe('stored images', () => {
  let node: Awaited<ReturnType<typeof startApi>>
  let api: string
  before(async () => {
    node = await startApi()
    api = `127.0.0.1:${node.port}`
  })
  beforeEach(() => {
    node.twin.gate = async () => {}
  })
  after(() => node.close())

  async function send(method: string, path: string, body?: unknown) {
    const answer = await fetch(`${node.url}${path}`, {
      method,
      ...(body === undefined
        ? {}
        : { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }),
    })
    return { status: answer.status, headers: Object.fromEntries(answer.headers), text: await answer.text() }
  }

  test('store shows how it goes, and what the site has then', async () => {
    const { status, out, err } = await shoal(['store', 'redis:7', '--copies', '3', '--api', api])
    assert.equal(status, 0, err)
    assert.match(
      out,
      /^docker\.io\/library\/redis:7@sha256:\w{64}\n0\.98 KiB in 2 blobs, 3 copies in the site, in /,
    )
    assert.deepEqual(node.twin.stored.at(-1), { name: REDIS, digest: digest('manifest'), copies: 3 })
    const images = (await shoal(['images', '--api', api])).out
    assert.match(images, /^IMAGE .* HERE +KEPT +BORROWED +SITE +COPIES +OFFLINE +USED +PINNED$/m)
    assert.match(images, /redis:7 .* 40 % +20 % +30 % +2\.93 KiB +3 +yes +\d+d ago +pinned$/m)
    const [image] = JSON.parse((await shoal(['images', '--json', '--api', api])).out)
    assert.deepEqual([image.startable, image.stored], [true, { copies: 3, copiesNow: 3, bytesInSite: 3000 }])
  })

  test('store --json prints the storing and nothing else; a bar fits in the terminal', async () => {
    const { status, out, err } = await shoal(['store', 'redis:7', '--json', '--api', api])
    assert.deepEqual([status, err], [0, ''])
    const { state, copies, blobs, blobsDone, bytes, bytesDone, name } = JSON.parse(out)
    assert.deepEqual(
      [state, copies, blobs, blobsDone, bytes, bytesDone, name],
      ['done', 2, 2, 2, 1000, 1000, REDIS],
    )
    const drawn = await shoal(['store', 'redis:7', '--api', api], { tty: true })
    assert.match(drawn.err, /\[=+>? *\] .*0\.98 KiB {2}2 of 2 blobs/)
    for (let columns = 1; columns < 150; columns++) {
      assert.ok(storeLines(JSON.parse(out), columns)[0]!.length < columns || columns === 1)
    }
  })

  test('an interrupt cancels the storing, a failure says why', async () => {
    const abort = new AbortController()
    node.twin.gate = (signal) => new Promise((_resolve, reject) => signal.addEventListener('abort', reject))
    const running = shoal(['store', 'redis', '--api', api], { signal: abort.signal })
    const count = node.twin.stored.length
    while (node.twin.stored.length === count) await new Promise((resolve) => setTimeout(resolve, 5))
    abort.abort()
    assert.match((await running).err, /shoal: interrupted: the storing is cancelled\n$/)
    const all = JSON.parse((await send('GET', '/api/v1/storings')).text)
    assert.equal(all.at(-1).state, 'cancelled')

    node.twin.gate = () => Promise.reject(new ShoalError('NO_QUORUM', 'only 1 of 2 nodes took its share'))
    const failed = await shoal(['store', 'redis', '--api', api])
    assert.deepEqual([failed.status, failed.out], [1, ''])
    assert.match(failed.err, /shoal: only 1 of 2 nodes took its share\n$/)
  })

  test('forget and repair', async () => {
    await shoal(['store', REDIS, '--api', api])
    assert.equal(
      (await shoal(['forget', 'redis:7', '--json', '--api', api])).out,
      '{"forgotten":"redis:7"}\n',
    )
    const again = await shoal(['forget', 'redis:7', '--api', api])
    assert.deepEqual([again.status, again.err], [1, `shoal: ${REDIS} is not stored\n`])
    assert.equal((await shoal(['repair', '--now', '--api', api])).out, 'copied 3 blocks, 3.00 MiB\n')
    await shoal(['repair', '--api', api])
    assert.deepEqual(node.twin.repairs, [{ now: true }, { now: false }])
  })

  test('what is no number of copies, platform or name', async () => {
    for (const copies of ['0', '-1', 'x', '1.5']) {
      const { status, err } = await shoal(['store', 'redis', '--copies', copies, '--api', api])
      assert.equal(status, 2, copies)
      assert.match(err, /--copies must be a number/)
    }
    const both = ['store', 'redis', '--platform', 'linux/arm64', '--all-platforms', '--api', api]
    assert.equal((await shoal(both)).status, 2)
    assert.match((await shoal(['store', 'a/B', '--api', api])).err, /^shoal: /)
    assert.match((await shoal(['forget', 'a b', '--api', api])).err, /^shoal: /)
  })

  test('answers are as the description has them', async () => {
    const body = { reference: 'redis:7', copies: 2, platform: 'all' }
    const started = await send('POST', '/api/v1/stored', body)
    assertDescribed('post', '/api/v1/stored', started)
    const { id } = JSON.parse(started.text)
    assert.equal(started.headers.location, `/api/v1/storings/${id}`)
    assertDescribed('get', '/api/v1/storings/{id}', await send('GET', `/api/v1/storings/${id}`))
    assertDescribed('get', '/api/v1/storings', await send('GET', '/api/v1/storings'))
    assertDescribed('get', '/api/v1/stored', await send('GET', '/api/v1/stored'))
    assertDescribed('get', '/api/v1/images', await send('GET', '/api/v1/images'))
    for (const bad of [
      {},
      { reference: 'redis' },
      { ...body, copies: 0 },
      { ...body, copies: 2000 },
      { ...body, more: 1 },
    ]) {
      const refused = await send('POST', '/api/v1/stored', bad)
      assert.equal(refused.status, 400)
      assertDescribed('post', '/api/v1/stored', refused)
    }
    const path = '/api/v1/stored/{name}'
    assertDescribed('delete', path, await send('DELETE', `/api/v1/stored/${encodeURIComponent(REDIS)}`))
    assertDescribed('delete', path, await send('DELETE', `/api/v1/stored/${encodeURIComponent('no/such:1')}`))
    assertDescribed('delete', path, await send('DELETE', `/api/v1/stored/${encodeURIComponent('A B')}`))
    assertDescribed('delete', '/api/v1/storings/{id}', await send('DELETE', `/api/v1/storings/${id}`))
    assertDescribed('delete', '/api/v1/storings/{id}', await send('DELETE', '/api/v1/storings/none'))
    assertDescribed('post', '/api/v1/repair', await send('POST', '/api/v1/repair', { now: true }))
    assertDescribed('post', '/api/v1/repair', await send('POST', '/api/v1/repair', { now: 1 }))
    assertDescribed('post', '/api/v1/repair', await send('POST', '/api/v1/repair'))
  })
})

test('an image is shown once; one that is only stored, and one whose tag moved, are shown as well', () => {
  const facts = { platforms: [], size: 100, bytesKept: 0, bytesBorrowed: 0, pinned: false, blobs: 3 }
  const here = { ...facts, digest: digest('a'), usedAt: 1 }
  const state = {
    site: 'default',
    copies: 2,
    blobs: [],
    size: 100,
    bytesHere: 30,
    bytesKept: 30,
    bytesInSite: 130,
    copiesNow: 1,
    startable: true,
  }
  const views = imageViews(
    [
      { ...here, reference: 'h/a:1', bytesHere: 100, complete: true },
      { ...here, reference: 'h/b:1', bytesHere: 30, complete: false },
      { ...here, reference: 'h/c:1', bytesHere: 30, complete: false },
      { ...here, reference: 'local:5000/e:1', bytesHere: 100, complete: true },
      { ...here, reference: 'local:5000/e:2', bytesHere: 100, complete: true },
    ],
    [
      { ...state, name: `local:5000/e@${digest('a')}`, digest: digest('a') },
      { ...state, name: `local:5000/e@${digest('b')}`, digest: digest('b') },
      { ...state, name: 'h/b:1', digest: digest('a') },
      { ...state, name: 'h/c:1', digest: digest('older') },
      { ...state, name: 'h/d:1', digest: digest('a'), startable: false },
    ],
  )
  assert.deepEqual(
    views.map(({ reference, startable, stored }) => [reference, startable, stored?.copiesNow]),
    [
      ['h/a:1', true, undefined],
      ['h/b:1', true, 1],
      ['h/c:1', false, undefined],
      ['h/c:1', true, 1],
      ['h/d:1', false, 1],
      ['local:5000/e:1', true, 1],
      ['local:5000/e:2', true, 1],
      [`local:5000/e@${digest('b')}`, true, 1],
    ],
  )
  const lines = imageLines(views, 1)
  assert.match(lines[2]!, /^h\/b:1 .* 30 % +- +- +130 B +1 of 2 +yes +0s ago$/)
  assert.match(lines[5]!, /^h\/d:1 .* 30 % +30 % +- +130 B +1 of 2 +no +-$/)
})
