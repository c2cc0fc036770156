import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { type Digest, digestOf } from '../../base/index.ts'
import { createLocalRepository } from '../../proxy/local/index.ts'
import { createRecordsTwin } from '../manager/records-twin.ts'
import { bytesOf, pushBlob, pushImage, pushNode, putManifest } from './push-tools.ts'

const NAME = 'local/app'
const HOUR_MS = 3_600_000
const { signal } = new AbortController()

describe('links of the local repository', () => {
  test('go a day later where no manifest of the repository names the blob', async (t) => {
    const node = await pushNode(t)
    const { local } = node.proxy.parts
    const image = await pushImage(node, NAME, 'v1')
    const lonely = await pushBlob(node, NAME, bytesOf(500))
    const other = await pushBlob(node, 'local/other', image.layer)
    const linked = async (): Promise<(number | undefined)[]> => [
      await local.link('app', digestOf(image.layer)),
      await local.link('app', lonely),
      await local.link('other', other),
    ]
    node.clock.ahead = 23 * HOUR_MS
    await node.proxy.parts.sweep()
    assert.deepEqual(await linked(), [3000, 500, 3000])
    node.clock.ahead = 25 * HOUR_MS
    await node.proxy.parts.sweep()
    assert.deepEqual(await linked(), [3000, undefined, undefined])
    assert.equal((await node.get(`/v2/${NAME}/blobs/${digestOf(image.layer)}`)).status, 200)
    assert.equal((await node.get(`/v2/${NAME}/blobs/${lonely}`)).status, 404)
    assert.equal((await node.get(`/v2/${NAME}/manifests/${image.digest}`, {}, 'DELETE')).status, 202)
    await node.proxy.parts.sweep()
    assert.deepEqual(await linked(), [undefined, undefined, undefined])
    // And what was taken back is pushed again as if it had never been there.
    assert.equal(await pushBlob(node, NAME, image.layer), digestOf(image.layer))
    assert.equal(await local.link('app', digestOf(image.layer)), 3000)
  })

  test('stay when a client was told that the blob is there, or a manifest names it meanwhile', async (t) => {
    const node = await pushNode(t)
    const image = await pushImage(node, NAME, 'v1')
    assert.equal((await node.get(`/v2/${NAME}/manifests/${image.digest}`, {}, 'DELETE')).status, 202)
    node.clock.ahead = 25 * HOUR_MS
    // The twin's stamps are of today: what is renewed now is of then.
    const real = Date.now
    t.mock.method(Date, 'now', () => real() + 25 * HOUR_MS)
    node.clock.ahead = 0
    for (const part of [image.layer, image.config]) {
      assert.equal((await node.get(`/v2/${NAME}/blobs/${digestOf(part)}`, {}, 'HEAD')).status, 200)
    }
    await node.proxy.parts.sweep()
    assert.equal((await putManifest(node, NAME, 'v1', image.bytes)).status, 201)
  })

  test('are swept by one node of all, and a link made at the same time as it is taken back stays', async () => {
    const twin = createRecordsTwin(2)
    const day = { later: 0 }
    const digest = `sha256:${'a'.repeat(64)}` as Digest
    const on = (id: string) => {
      const records = twin.join(id)
      const list = () =>
        ['a', 'b'].map((peer) => ({
          id: peer,
          name: peer,
          site: 's',
          addrs: [],
          state: 'alive' as const,
          incarnation: 0,
        }))
      const self = list().find((member) => member.id === id)!
      const now = () => Date.now() + day.later
      return {
        records,
        repository: createLocalRepository({ records, members: { list, self }, copies: 1, now }),
      }
    }
    const [a, b] = [on('a'), on('b')]
    await a.repository.putLink('app', digest, 7, signal)
    day.later = 25 * HOUR_MS
    await b.repository.sweep()
    assert.equal(await b.repository.link('app', digest), 7)
    await a.repository.sweep()
    assert.equal(await b.repository.link('app', digest), undefined)

    await b.repository.putLink('app', digest, 7, signal)
    const made = (await b.records.get(`link/app@${digest}`))!
    await b.records.put(made.key, undefined, { copies: 1 })
    const beaten = (await b.records.get(made.key))!
    beaten.beaten.push({ value: made.value, stamp: made.stamp })
    assert.equal(await a.repository.link('app', digest), 7)
    const mediaType = 'application/vnd.oci.image.manifest.v1+json'
    const manifest = { mediaType, size: 1, manifests: [], parts: [{ digest, size: 7 }] }
    await a.repository.putManifest('app', `sha256:${'b'.repeat(64)}`, manifest, signal)
    await a.repository.sweep()
    assert.deepEqual((await a.records.get(made.key))?.value, { size: 7 })
  })
})
