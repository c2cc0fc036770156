import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { mkdir, mkdtemp, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { type Digest, digestOf, silentLog } from '../../base/index.ts'
import {
  type ChangeSource,
  type Content,
  type ContentOptions,
  containerdChanges,
  followContent,
  giveAllBack,
} from '../../integration/index.ts'
import { createSwarm, pull, type Swarm, type SwarmNode } from '../manager/swarm.ts'

const MIB = 2 ** 20

/** A real store and manager, and a directory in which files come and go as containerd has them. */
describe("containerd's content", () => {
  let root: string
  let blobs: string
  let swarm: Swarm
  let node: SwarmNode
  let content: Content | undefined

  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), 'shoal-content-'))
    blobs = join(root, 'io.containerd.content.v1.content/blobs/sha256')
    await mkdir(blobs, { recursive: true })
    swarm = await createSwarm()
    node = await swarm.add()
  })
  afterEach(async () => {
    await content?.close()
    content = undefined
    await swarm.close()
    await rm(root, { recursive: true })
  })

  const follow = (options: Partial<ContentOptions> = {}): void => {
    const { manager, store } = node
    content = followContent({ root, manager, store, log: silentLog(), standMs: 0, lookMs: 1000, ...options })
  }

  const pathOf = (digest: Digest): string => join(blobs, digest.slice(7))

  /** As containerd does it: written beside, renamed into place. */
  async function commit(bytes: Buffer, digest = digestOf(bytes)): Promise<Digest> {
    const ingest = join(root, `ingest-${Math.random()}`)
    await writeFile(ingest, bytes)
    await rename(ingest, pathOf(digest))
    return digest
  }

  async function eventually(what: string, isSo: () => Promise<boolean>): Promise<void> {
    for (const end = Date.now() + 60_000; !(await isSo()); await delay(20)) {
      assert.ok(Date.now() < end, `${what}, but not in 60 s`)
    }
  }

  const borrowed = (digest: Digest, of = node): Promise<void> =>
    eventually('it is borrowed', async () => {
      const blob = await of.store.blob(digest)
      return blob?.complete === true && blob.borrowedFrom === pathOf(digest)
    })
  const forgotten = (digest: Digest): Promise<void> =>
    eventually('it is forgotten', async () => (await node.store.blob(digest)) === undefined)

  test('what was there before, what comes and what goes', async () => {
    const before = await Promise.all([10, MIB, 3 * MIB + 5].map((size) => commit(randomBytes(size))))
    follow()
    for (const digest of before) await borrowed(digest)
    const later = await commit(randomBytes(2 * MIB))
    await borrowed(later)
    await rm(pathOf(before[1]!))
    await forgotten(before[1]!)
    assert.equal(await node.manager.holds(later), true)
    assert.equal(node.store.usage().bytes, 0)
  })

  test('a neighbour pulls what is only in containerd, with the uplink cut; and does without once it is gone', async () => {
    const other = await swarm.add()
    const digest = swarm.upstream.add(5 * MIB + 1)
    // Both have been asked before, so that whoever coordinates the blob knows that nobody has it.
    swarm.upstream.up = false
    for (const asker of [node, other]) await assert.rejects(pull(swarm, asker, digest))
    await commit(swarm.upstream.blobs.get(digest)!)
    follow()
    await borrowed(digest)
    assert.deepEqual(await pull(swarm, other, digest), { local: 0, peers: 5 * MIB + 1, upstream: 0 })
    assert.deepEqual(await pull(swarm, node, digest), { local: 5 * MIB + 1, peers: 0, upstream: 0 })
    await other.store.remove(digest)
    await rm(pathOf(digest))
    await forgotten(digest)
    await assert.rejects(pull(swarm, other, digest), { code: 'UPSTREAM_UNREACHABLE' })
    swarm.upstream.up = true
    assert.equal((await pull(swarm, other, digest)).upstream, 5 * MIB + 1)
  })

  test('after a pull, the own blocks go; not before the file has stood for a while', async () => {
    const digest = swarm.upstream.add(3 * MIB)
    await pull(swarm, node, digest)
    follow({ standMs: 1500 })
    const committedAt = Date.now()
    await commit(swarm.upstream.blobs.get(digest)!)
    await borrowed(digest)
    assert.ok(Date.now() - committedAt >= 1400)
    // What says so is written first, and the own files go then.
    await eventually('the own blocks are gone', async () => node.store.usage().bytes === 0)
    assert.deepEqual(node.store.usage(), { bytes: 0, blocks: 0, borrowed: 3 * MIB, quota: undefined })

    // Removed at once, as with discard_unpacked_layers: Shoal keeps its own.
    const discarded = swarm.upstream.add(2 * MIB)
    await pull(swarm, node, discarded)
    await commit(swarm.upstream.blobs.get(discarded)!)
    await delay(100)
    await rm(pathOf(discarded))
    await delay(1600)
    assert.equal((await node.store.blob(discarded))?.borrowedFrom, undefined)
    assert.equal(await node.manager.holds(discarded), true)
    assert.equal(node.store.usage().bytes, 2 * MIB)
  })

  test('when containerd removes unpacked layers, own copies are kept; when it removes an image, that is nothing', async () => {
    follow({ discardMs: 60_000, settleMs: 200 })
    async function pullAndCommit(): Promise<{ layer: Digest; manifest: Digest }> {
      const layer = swarm.upstream.add(2 * MIB)
      await pull(swarm, node, layer)
      await commit(swarm.upstream.blobs.get(layer)!)
      const manifest = await commit(Buffer.from(JSON.stringify({ layers: [{ digest: layer }] })))
      return { layer, manifest }
    }
    const image = await pullAndCommit()
    await borrowed(image.layer)
    await Promise.all([rm(pathOf(image.layer)), rm(pathOf(image.manifest))])
    await forgotten(image.layer)
    await delay(400)

    const discarded = await pullAndCommit()
    await borrowed(discarded.layer)
    await rm(pathOf(discarded.layer))
    await forgotten(discarded.layer)
    await delay(400)

    const next = await pullAndCommit()
    await delay(300)
    assert.equal((await node.store.blob(next.layer))?.borrowedFrom, undefined)
    await rm(pathOf(next.layer))
    await delay(100)
    assert.equal(await node.manager.holds(next.layer), true)
  })

  test('what is pinned keeps its own blocks until it is not', async () => {
    const digest = swarm.upstream.add(2 * MIB)
    await pull(swarm, node, digest)
    await node.store.pin(digest, true)
    follow({ lookMs: 100 })
    await commit(swarm.upstream.blobs.get(digest)!)
    await delay(300)
    assert.equal(node.store.usage().bytes, 2 * MIB)
    await node.store.pin(digest, false)
    await borrowed(digest)
    await node.store.pin(digest, true)
    await rm(pathOf(digest))
    await delay(300)
    assert.equal(await node.manager.holds(digest), true)
  })

  test('what is held stays, without a word in the log; what is kept no longer moves', async () => {
    const digest = swarm.upstream.add(3 * MIB)
    await pull(swarm, node, digest)
    const release = node.store.hold(digest)
    const warnings: unknown[] = []
    const log = { ...silentLog(), warn: (...args: unknown[]) => void warnings.push(args) }
    follow({ lookMs: 50, log })
    await commit(swarm.upstream.blobs.get(digest)!)
    await delay(300)
    assert.equal((await node.store.blob(digest))?.borrowedFrom, undefined)
    await node.store.keep(digest, [0, MIB])
    release()
    await borrowed(digest)
    await eventually('what is not kept has moved', async () => node.store.usage().bytes === 2 * MIB)
    await node.store.keep(digest, [MIB])
    await eventually('it has moved', async () => node.store.usage().bytes === MIB)
    await node.store.keep(digest, [])
    await eventually('all has moved', async () => node.store.usage().bytes === 0)
    assert.deepEqual(warnings, [])
  })

  test('a task that is under way is let alone', async () => {
    const digest = swarm.upstream.add(4 * MIB)
    swarm.upstream.pace = 5
    const pulling = pull(swarm, node, digest)
    await eventually('the pull has begun', async () => ((await node.store.blob(digest))?.bytesHere ?? 0) > 0)
    follow({ lookMs: 50 })
    await commit(swarm.upstream.blobs.get(digest)!)
    await delay(150)
    assert.equal((await node.store.blob(digest))?.borrowedFrom, undefined)
    assert.equal((await pulling).upstream, 4 * MIB)
    await borrowed(digest)
  })

  test('a task that begins while the file is read comes first', async () => {
    const digest = swarm.upstream.add(2 * MIB)
    await commit(swarm.upstream.blobs.get(digest)!)
    follow({ bytesPerSecond: 1000, lookMs: 60_000 })
    await delay(200)
    assert.equal((await pull(swarm, node, digest)).upstream, 2 * MIB)
    assert.equal((await node.store.blob(digest))?.borrowedFrom, undefined)
  })

  test('it is looked at when somebody says that something changed, and once more a moment later', async () => {
    await rm(blobs, { recursive: true })
    let say = (): void => {}
    let closed = false
    const changes: ChangeSource = ({ changed }) => {
      say = changed
      return {
        async close() {
          closed = true
        },
      }
    }
    // There is nothing to be watched yet, and nobody would look again before the test's time is up.
    follow({ changes, retryMs: 600_000, lookMs: 600_000, soonMs: 300 })
    await delay(100)
    await mkdir(blobs, { recursive: true })
    const digest = await commit(randomBytes(MIB))
    for (let i = 0; i < 100; i++) say()
    await borrowed(digest)

    await rm(root, { recursive: true })
    say()
    await forgotten(digest)
    const slow = delay(100)
      .then(() => mkdir(blobs, { recursive: true }))
      .then(() => commit(randomBytes(10)))
    say()
    await borrowed(await slow)
    await content?.close()
    content = undefined
    assert.equal(closed, true)
    say()
  })

  test('where it is known that unpacked layers are removed, own copies are kept from the first one on', async () => {
    const digest = swarm.upstream.add(2 * MIB)
    await pull(swarm, node, digest)
    const changes: ChangeSource = ({ discards }) => {
      discards()
      return { close: async () => {} }
    }
    follow({ changes, discardMs: 60_000 })
    await commit(swarm.upstream.blobs.get(digest)!)
    await delay(300)
    assert.equal((await node.store.blob(digest))?.borrowedFrom, undefined)
    assert.equal(node.store.usage().bytes, 2 * MIB)
  })

  test('where there is no socket, nothing is told, and nothing is loaded', async () => {
    const address = join(root, 'containerd.sock')
    let told = 0
    const listener = { changed: () => told++, discards: () => told++ }
    const source = containerdChanges({ address, log: silentLog(), retryMs: 20 })(listener)
    await delay(100)
    // Something else is at the socket: it is tried again and again.
    await writeFile(address, '')
    await delay(300)
    assert.equal(told, 0)
    await source.close()
  })

  test('files with wrong names or wrong bytes are left alone', async () => {
    const wrong = digestOf(randomBytes(10))
    await commit(randomBytes(MIB), wrong)
    await writeFile(join(blobs, 'not-a-digest'), 'x')
    await mkdir(join(blobs, 'f'.repeat(64)))
    follow({ lookMs: 50 })
    const right = await commit(randomBytes(100))
    await borrowed(right)
    await delay(300)
    assert.equal(await node.store.blob(wrong), undefined)
    assert.equal((await readdir(blobs)).length, 4)
    // containerd fetches it anew.
    const bytes = randomBytes(MIB)
    const digest = await commit(randomBytes(MIB), digestOf(bytes))
    await delay(200)
    await commit(bytes)
    await borrowed(digest)
  })

  test('a directory that comes later, goes, and comes again', async () => {
    await rm(root, { recursive: true })
    follow({ retryMs: 50, lookMs: 50 })
    await delay(100)
    await mkdir(blobs, { recursive: true })
    const digest = await commit(randomBytes(MIB))
    await borrowed(digest)
    await rm(root, { recursive: true })
    await forgotten(digest)
    await mkdir(blobs, { recursive: true })
    await borrowed(await commit(randomBytes(MIB)))
  })

  test('what went while nobody looked is given back at the start, and all of it when borrowing is turned off', async () => {
    const [a, b] = await Promise.all([1, 2].map((n) => commit(randomBytes(n * MIB))))
    follow()
    await borrowed(a!)
    await borrowed(b!)
    await content?.close()
    await rm(pathOf(a!))
    follow()
    await forgotten(a!)
    await borrowed(b!)
    await content?.close()
    await giveAllBack(node)
    assert.equal(await node.store.blob(b!), undefined)
  })

  test('many that come and go at once', async () => {
    follow()
    const all = await Promise.all(Array.from({ length: 60 }, (_, i) => commit(randomBytes(1000 + i * 5000))))
    await Promise.all(all.map((digest) => borrowed(digest)))
    await Promise.all(all.slice(0, 50).map((digest) => rm(pathOf(digest))))
    await Promise.all(all.slice(0, 50).map(forgotten))
    for (const digest of all.slice(50)) assert.equal(await node.manager.holds(digest), true)
  })
})
