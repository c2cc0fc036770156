import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { ShoalError } from '../../base/index.ts'
import type { Member, SharedRecord, SharedRecords } from '../../manager/types.ts'
import { createLocalRepository, listLocal } from '../../proxy/local/index.ts'
import {
  assertRefused,
  bytesOf,
  CONFIG,
  describe as described,
  OCI_INDEX,
  OCI_MANIFEST,
  pushBlob,
  pushImage,
  pushNode,
  putManifest,
} from './push-tools.ts'
import { createSite } from './stand-in.ts'

const NAME = 'local/app'

const member: Member = { id: 'x', name: 'x', site: 's', addrs: [], state: 'alive', incarnation: 0 }

describe('what was pushed is found', () => {
  test('tags, in order, in pages', async (t) => {
    const node = await pushNode(t)
    const image = await pushImage(node, NAME, 'b')
    for (const tag of ['c', 'a', 'B', 'a.1']) await putManifest(node, NAME, tag, image.bytes)
    const all = ['B', 'a', 'a.1', 'b', 'c']
    const list = await node.get(`/v2/${NAME}/tags/list`)
    assert.equal(list.status, 200)
    assert.deepEqual(list.json(), { name: NAME, tags: all })
    assert.equal(list.headers.link, undefined)

    const pages: unknown[] = []
    for (let path: string | undefined = `/v2/${NAME}/tags/list?n=2`; path !== undefined; ) {
      const page = await node.get(path)
      pages.push(page.json().tags)
      path = /^<([^>]+)>; rel="next"$/.exec(String(page.headers.link))?.[1]
    }
    assert.deepEqual(pages, [['B', 'a'], ['a.1', 'b'], ['c']])
    assert.deepEqual((await node.get(`/v2/${NAME}/tags/list?n=0`)).json().tags, [])
    assert.deepEqual((await node.get(`/v2/${NAME}/tags/list?last=a.1`)).json().tags, ['b', 'c'])
    assert.deepEqual((await node.get(`/v2/${NAME}/tags/list?last=zz&n=5`)).json().tags, [])
    assert.equal((await node.get(`/v2/${NAME}/tags/list?n=x`)).status, 400)
    assertRefused(await node.get('/v2/local/none/tags/list'), 404, 'NAME_UNKNOWN')
    assertRefused(await node.get('/v2/local/ap/tags/list'), 404, 'NAME_UNKNOWN')
  })

  test('referrers, all and of one type, with and without their subject', async (t) => {
    const node = await pushNode(t)
    const image = await pushImage(node, NAME, 'v1')
    const subject = described(image.bytes, OCI_MANIFEST)
    const path = `/v2/${NAME}/referrers/${image.digest}`
    const empty = await node.get(path)
    assert.equal(empty.status, 200)
    assert.equal(empty.headers['content-type'], OCI_INDEX)
    assert.deepEqual(empty.json(), { schemaVersion: 2, mediaType: OCI_INDEX, manifests: [] })

    const annotations = { 'org.example.when': 'now' }
    const sbom = await pushImage(node, NAME, undefined, {
      subject,
      artifactType: 'application/x-sbom',
      annotations,
    })
    const signature = await pushImage(node, NAME, 'sig', { subject })
    await pushImage(node, 'local/other', undefined, { subject })
    const index = { schemaVersion: 2, mediaType: OCI_INDEX, manifests: [], subject }
    const listed = await putManifest(node, NAME, 'index', index, OCI_INDEX)
    assert.equal(listed.headers['oci-subject'], image.digest)

    const found = (await node.get(path)).json().manifests as Record<string, unknown>[]
    assert.deepEqual(
      found.sort((a, b) => Number(a.size) - Number(b.size)),
      [
        {
          mediaType: OCI_INDEX,
          digest: listed.headers['docker-content-digest'],
          size: Buffer.byteLength(JSON.stringify(index)),
        },
        { ...described(signature.bytes, OCI_MANIFEST), artifactType: CONFIG },
        { ...described(sbom.bytes, OCI_MANIFEST), artifactType: 'application/x-sbom', annotations },
      ],
    )
    const some = await node.get(`${path}?artifactType=application/x-sbom`)
    assert.equal(some.headers['oci-filters-applied'], 'artifactType')
    const digests = (some.json().manifests as { digest: string }[]).map(({ digest }) => digest)
    assert.deepEqual(digests, [sbom.digest])

    await node.get(`/v2/${NAME}/manifests/${image.digest}`, {}, 'DELETE')
    assert.equal(((await node.get(path)).json().manifests as unknown[]).length, 3)
    await node.get(`/v2/${NAME}/manifests/${sbom.digest}`, {}, 'DELETE')
    assert.equal(((await node.get(path)).json().manifests as unknown[]).length, 2)
    assertRefused(await node.get(`/v2/${NAME}/referrers/sha256:x`), 400, 'DIGEST_INVALID')
  })

  test('referrers that are too many for one answer come in pages', async (t) => {
    const node = await pushNode(t)
    const image = await pushImage(node, NAME, 'v1')
    const subject = described(image.bytes, OCI_MANIFEST)
    const index = { schemaVersion: 2, mediaType: OCI_INDEX, manifests: [], subject, artifactType: 'a/b' }
    const pushed: unknown[] = []
    for (let i = 0; i < 90; i++) {
      const annotations = { 'org.example.much': `${i}`.padEnd(15_000) }
      const answer = await putManifest(node, NAME, `t${i}`, { ...index, annotations }, OCI_INDEX)
      pushed.push(answer.headers['docker-content-digest'])
    }
    const pages: unknown[][] = []
    const first = `/v2/${NAME}/referrers/${image.digest}?artifactType=a%2Fb`
    for (let path: string | undefined = first; path !== undefined; ) {
      const page = await node.get(path)
      assert.ok(page.body.length < 2 ** 21)
      assert.equal(page.headers['oci-filters-applied'], 'artifactType')
      pages.push((page.json().manifests as { digest: string }[]).map(({ digest }) => digest))
      path = /^<([^>]+)>; rel="next"$/.exec(String(page.headers.link))?.[1]
    }
    assert.equal(pages.length, 2)
    assert.deepEqual(pages.flat(), pushed.sort())
  })

  test('on every node of the cluster under the same name, from what the pushed-to node has', async (t) => {
    const site = createSite()
    const a = await pushNode(t, { site, id: 'a' })
    const b = await pushNode(t, { site, id: 'b' })
    const image = await pushImage(a, NAME, 'v1')
    const got = await b.get(`/v2/${NAME}/manifests/v1`)
    assert.deepEqual(got.body, image.bytes)
    assert.equal(got.headers['content-type'], OCI_MANIFEST)
    assert.deepEqual((await b.get(`/v2/${NAME}/tags/list`)).json().tags, ['v1'])
    for (const bytes of [image.config, image.layer]) {
      const { digest } = described(bytes, '')
      const head = await b.get(`/v2/${NAME}/blobs/${digest}`, {}, 'HEAD')
      assert.equal(head.headers['content-length'], String(bytes.length))
      assert.deepEqual((await b.get(`/v2/${NAME}/blobs/${digest}`)).body, bytes)
    }
    // A blob that was pushed to one node, the manifest that names it to another.
    const late = bytesOf(100)
    await pushBlob(a, NAME, late)
    const manifest = { ...image.manifest, layers: [described(late, 'application/x')] }
    assert.equal((await putManifest(b, NAME, 'v2', manifest)).status, 201)
  })

  test('an image is listed among the images, with its tag', async (t) => {
    const node = await pushNode(t)
    const image = await pushImage(node, NAME, 'v1')
    const [listed, ...more] = await node.proxy.parts.images.list()
    assert.deepEqual(more, [])
    assert.equal(listed?.name, `${NAME}:v1`)
    assert.equal(listed?.digest, image.digest)
    assert.equal(listed?.bytesHere, image.bytes.length + image.config.length + image.layer.length)
  })

  test('what stands in the records is checked before it is believed', async (t) => {
    const node = await pushNode(t)
    const { digest } = await pushImage(node, NAME, 'v1')
    const put = (key: string, value: unknown) => node.manager.records.put(key, value, { copies: 1 })
    await put('tag/app:odd', { not: 'a digest' })
    await put('tag/app:dangling', described(bytesOf(1), '').digest)
    await put(`manifest/app@${described(bytesOf(2), '').digest}`, 'nonsense')
    await put(`link/app@${digest}`, { size: -1 })
    assert.deepEqual((await node.get(`/v2/${NAME}/tags/list`)).json().tags, ['v1'])
    assertRefused(await node.get(`/v2/${NAME}/manifests/odd`), 404, 'MANIFEST_UNKNOWN')
    assertRefused(await node.get(`/v2/${NAME}/manifests/dangling`), 404, 'MANIFEST_UNKNOWN')
    assertRefused(await node.get(`/v2/${NAME}/blobs/${digest}`), 404, 'BLOB_UNKNOWN')
  })
})

test('the API view shows the writes that a tag beat', async () => {
  const of = (text: string) => described(Buffer.from(text), '').digest
  const stamp = (ms: number, node: string) => ({ ms, count: 0, node })
  const table: SharedRecord[] = [
    {
      key: `manifest/app@${of('b')}`,
      value: { mediaType: OCI_MANIFEST, size: 5, manifests: [], parts: [] },
      stamp: stamp(1, 'b'),
      beaten: [],
    },
    {
      key: 'tag/app:v1',
      value: of('b'),
      stamp: stamp(3, 'b'),
      beaten: [
        { value: of('a'), stamp: stamp(2, 'a') },
        { value: undefined, stamp: stamp(1, 'c') },
      ],
    },
  ]
  const records = {
    get: async (key: string) => table.find((record) => record.key === key),
    async *entries(prefix: string) {
      for (const record of table) if (record.key.startsWith(prefix)) yield record
    },
  } as unknown as SharedRecords
  const repository = createLocalRepository({ records, members: { list: () => [], self: member }, copies: 1 })
  const view = {
    name: 'local/app',
    tags: [
      {
        tag: 'v1',
        digest: of('b'),
        at: 3,
        node: 'b',
        beaten: [
          { digest: of('a'), at: 2, node: 'a' },
          { at: 1, node: 'c' },
        ],
      },
    ],
    manifests: [{ digest: of('b'), mediaType: OCI_MANIFEST, size: 5 }],
  }
  assert.deepEqual(await listLocal(repository), [view])
  assert.deepEqual(await listLocal(repository, 'local/app'), [view])
  assert.deepEqual(await listLocal(repository, 'local/none'), [])
})

test('a record is on every node that is there; one that does not answer costs only time', async () => {
  const asked: number[] = []
  const answers: (Error | undefined)[] = []
  const records = {
    get: async () => undefined,
    async put(_key: string, _value: unknown, { copies }: { copies: number }) {
      asked.push(copies)
      const answer = answers.shift()
      if (answer) throw answer
    },
  } as unknown as SharedRecords
  const list = () => [member, member, member, { ...member, state: 'suspect' as const }]
  const repository = createLocalRepository({ records, members: { list, self: member }, copies: 2 })
  const { digest } = described(Buffer.from('x'), '')
  const put = async (...errors: (Error | undefined)[]): Promise<number[]> => {
    asked.length = 0
    answers.splice(0, answers.length, ...errors)
    await repository.putTag('app', 'v1', digest, new AbortController().signal)
    return asked
  }
  const short = (details: Record<string, unknown>) => new ShoalError('NO_QUORUM', 'too few', { details })
  assert.deepEqual(await put(undefined), [3])
  assert.deepEqual(await put(short({ written: true, confirmed: 2 })), [3])
  assert.deepEqual(await put(short({}), undefined), [3, 2])
  await assert.rejects(put(short({ written: true, confirmed: 1 })), { code: 'NO_QUORUM' })
  await assert.rejects(put(short({}), short({})), { code: 'NO_QUORUM' })
})
