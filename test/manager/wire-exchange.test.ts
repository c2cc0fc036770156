import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import type { Libp2p } from '@libp2p/interface'
import { silentLog } from '../../base/index.ts'
import { cidOfHash } from '../../blockstore/cid.ts'
import type { Priority } from '../../manager/types.ts'
import { BLOCKS_PROTOCOL, createExchange, type OpenExchange } from '../../manager/wire/index.ts'
import { idOf, memoryBlocks, startNodes, until } from './wire-nodes.ts'

const BLOCK = 512 * 1024
const store = memoryBlocks()
let server: Libp2p
let client: Libp2p
let upload: OpenExchange
let download: OpenExchange
let from: string

before(async () => {
  ;[server, client] = (await startNodes(2)) as [Libp2p, Libp2p]
  from = idOf(server)
  upload = await createExchange({ node: server, provide: store.provide, log: silentLog() })
  download = await createExchange({ node: client, provide: store.provide, log: silentLog() })
})

after(async () => {
  await Promise.all([upload.close(), download.close()])
  await Promise.all([server.stop(), client.stop()])
})

function options(length: number, more: { signal?: AbortSignal; priority?: Priority; stallMs?: number } = {}) {
  return {
    length,
    priority: 'client' as Priority,
    signal: new AbortController().signal,
    stallMs: 10_000,
    ...more,
  }
}

test('blocks of all sizes arrive as they are, and are counted', async () => {
  const before = download.totals(from).received
  let bytes = 0
  for (const length of [1, 100, 65_536, 65_537, BLOCK - 1, BLOCK, 2_000_000]) {
    const block = store.add(length)
    let heard = 0
    const got = await download.fetch(from, block.cid, { ...options(length), onBytes: (n) => (heard += n) })
    assert.deepEqual(got, block.bytes)
    assert.equal(heard, length)
    bytes += length
  }
  assert.equal(download.totals(from).received - before, bytes)
  assert.equal(upload.totals().sent, upload.totals(idOf(client)).sent)
  assert.ok(upload.totals().sent >= bytes)
})

test('a given buffer is filled, its rest is left alone', async () => {
  const block = store.add(1000)
  const into = Buffer.alloc(1200, 9)
  const got = await download.fetch(from, block.cid, { ...options(1000), into: () => into })
  assert.equal(got.buffer, into.buffer)
  assert.deepEqual(got, block.bytes)
  assert.ok(into.subarray(1000).every((byte) => byte === 9))
})

test('a given buffer that is too short ends the one request, not those beside it', async () => {
  const block = store.add(1000)
  const short = download.fetch(from, block.cid, { ...options(1000), into: () => Buffer.alloc(999) })
  const other = download.fetch(from, block.cid, options(1000))
  await assert.rejects(short, { code: 'RANGE_INVALID' })
  assert.deepEqual(await other, block.bytes)
})

test('a thousand fetches at once, in both directions, hold few blocks in memory at a time', async () => {
  const blocks = Array.from({ length: 8 }, () => store.add(40_000))
  let most = 0
  const watch = setInterval(() => {
    most = Math.max(most, upload.stats().uploads.loadedBytes)
  }, 1)
  async function get(exchange: OpenExchange, peer: string, i: number): Promise<void> {
    const block = blocks[i % blocks.length]!
    assert.deepEqual(await exchange.fetch(peer, block.cid, options(40_000)), block.bytes)
  }
  await Promise.all(
    Array.from({ length: 1000 }, (_, i) => (i % 2 ? get(download, from, i) : get(upload, idOf(client), i))),
  )
  clearInterval(watch)
  assert.ok(most <= 1024 * 1024, `${most} bytes were loaded at once`)
  await until(() => upload.stats().uploads.loaded === 0)
})

test('what is not there is BLOCK_MISSING, also when it has another length', async () => {
  const nowhere = cidOfHash(Buffer.alloc(32, 3))
  await assert.rejects(download.fetch(from, nowhere, options(10)), { code: 'BLOCK_MISSING' })
  const block = store.add(500)
  await assert.rejects(download.fetch(from, block.cid, options(501)), { code: 'BLOCK_MISSING' })
  assert.equal((await download.fetch(from, block.cid, options(500))).length, 500)
})

test('senseless requests are refused before anything is sent', async () => {
  const { cid } = store.add(10)
  await assert.rejects(download.fetch(from, cid, options(0)), { code: 'RANGE_INVALID' })
  await assert.rejects(download.fetch(from, cid, options(1 << 30)), { code: 'RANGE_INVALID' })
  await assert.rejects(download.fetch(from, 'bafynonsense', options(10)), { code: 'DIGEST_INVALID' })
  await assert.rejects(download.fetch(from, cid, options(10, { signal: AbortSignal.abort() })), {
    code: 'ABORTED',
  })
})

test('a cancelled fetch ends at once, frees the other end, and its buffer is not written any more', async () => {
  const block = store.add(16 << 20)
  const abort = new AbortController()
  const into = Buffer.alloc(block.bytes.length)
  let heard = 0
  const fetching = download.fetch(from, block.cid, {
    ...options(block.bytes.length, { signal: abort.signal }),
    into: () => into,
    onBytes(count) {
      heard += count
      abort.abort()
    },
  })
  await assert.rejects(fetching, { code: 'ABORTED' })
  const at = heard
  into.fill(0)
  await until(() => upload.stats().uploads.loaded === 0)
  // What comes after in the same stream is still understood.
  const small = store.add(100)
  assert.deepEqual(await download.fetch(from, small.cid, options(100)), small.bytes)
  assert.equal(heard, at)
  assert.ok(into.every((byte) => byte === 0))
  assert.equal(download.stats().downloads.requests, 0)
})

test('cancelling before the answer begins drops the request', async () => {
  let release = (): void => {}
  const held = new Promise<void>((resolve) => {
    release = resolve
  })
  const [one, two] = (await startNodes(2)) as [Libp2p, Libp2p]
  const asked: string[] = []
  const slow = await createExchange({
    node: one,
    log: silentLog(),
    async provide(cid, signal) {
      asked.push(cid)
      await held
      return await store.provide(cid, signal)
    },
  })
  const asker = await createExchange({ node: two, provide: store.provide, log: silentLog() })
  const blocks = Array.from({ length: 4 }, () => store.add(BLOCK))
  const aborts = blocks.map(() => new AbortController())
  const results = blocks.map(({ cid }, i) =>
    asker
      .fetch(idOf(one), cid, options(BLOCK, { signal: aborts[i]!.signal }))
      .then((bytes) => bytes.length)
      .catch((error) => error.code),
  )
  await until(() => asked.length === 2 && slow.stats().uploads.queued === 2)
  for (const i of [1, 2]) aborts[i]!.abort()
  await until(() => slow.stats().uploads.queued === 1)
  release()
  assert.deepEqual(await Promise.all(results), [BLOCK, 'ABORTED', 'ABORTED', BLOCK])
  assert.equal(asked.includes(blocks[2]!.cid), false)
  await Promise.all([slow.close(), asker.close()])
  await Promise.all([one.stop(), two.stop()])
})

test('when the connection goes, all its fetches fail; after a new one they work', async () => {
  const [one, two] = (await startNodes(2)) as [Libp2p, Libp2p]
  const silent = await createExchange({
    node: one,
    log: silentLog(),
    provide: (cid, signal) =>
      store.blocks.get(cid)?.length === 7
        ? store.provide(cid, signal)
        : new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason))),
  })
  const asker = await createExchange({ node: two, provide: store.provide, log: silentLog() })
  const { cid } = store.add(1000)
  const results = Array.from({ length: 20 }, () =>
    asker.fetch(idOf(one), cid, options(1000)).catch((error) => error.code),
  )
  await until(() => silent.stats().uploads.loaded === 16)
  for (const connection of two.getConnections()) connection.abort(new Error('cut'))
  assert.ok((await Promise.all(results)).every((code) => code === 'PEER_GONE'))
  await until(() => silent.stats().uploads.loaded === 0 && silent.stats().uploads.streams === 0)
  await two.dial(one.getMultiaddrs())
  assert.equal((await asker.fetch(idOf(one), store.add(7).cid, options(7))).length, 7)

  const last = asker.fetch(idOf(one), cid, options(1000))
  await until(() => silent.stats().uploads.loaded === 1)
  await Promise.all([assert.rejects(last, { code: 'ABORTED' }), asker.close()])
  await assert.rejects(asker.fetch(idOf(one), cid, options(1000)), { code: 'ABORTED' })
  await silent.close()
  await Promise.all([one.stop(), two.stop()])
})

test('a reader that stands still keeps nobody else waiting and holds little', async () => {
  const [one, slow1, slow2, slow3, quick] = (await startNodes(5)) as [Libp2p, Libp2p, Libp2p, Libp2p, Libp2p]
  const exchange = await createExchange({
    node: one,
    provide: store.provide,
    log: silentLog(),
    limits: { maxUploads: 4 },
  })
  const big = store.add(4 << 20)
  const { askFrame } = await import('../../manager/wire/blockframes.ts')
  const { hashOfCid } = await import('../../blockstore/cid.ts')
  for (const node of [slow1, slow2, slow3]) {
    const stream = await node.dialProtocol(one.getMultiaddrs(), BLOCKS_PROTOCOL)
    for (let id = 1; id <= 8; id++) {
      stream.send(askFrame(id, 'client', big.bytes.length, hashOfCid(big.cid)))
    }
    stream.addEventListener('message', () => queueMicrotask(() => stream.pause()))
  }
  await until(() => exchange.stats().uploads.queued >= 20)
  const asker = await createExchange({ node: quick, provide: store.provide, log: silentLog() })
  const blocks = Array.from({ length: 6 }, () => store.add(BLOCK))
  for (const { cid, bytes } of blocks) {
    assert.deepEqual(await asker.fetch(idOf(one), cid, options(BLOCK, { priority: 'preheat' })), bytes)
  }
  const small = store.add(1000)
  assert.deepEqual(await asker.fetch(idOf(one), small.cid, options(1000)), small.bytes)
  assert.ok(exchange.stats().uploads.loadedBytes <= 2 * big.bytes.length)
  await Promise.all([slow1, slow2, slow3].map((node) => node.stop()))
  await until(() => exchange.stats().uploads.loaded === 0 && exchange.stats().uploads.queued === 0)
  await Promise.all([exchange.close(), asker.close()])
  await Promise.all([one.stop(), quick.stop()])
})

test('limits hold: no faster than the rate allows, and lifting them lets the rest through', async () => {
  const [one, two] = (await startNodes(2)) as [Libp2p, Libp2p]
  const sender = await createExchange({
    node: one,
    provide: store.provide,
    log: silentLog(),
    limits: { uploadRate: 400_000 },
  })
  const asker = await createExchange({ node: two, provide: store.provide, log: silentLog() })
  const block = store.add(2 << 20)
  const start = performance.now()
  let got = 0
  let lifted = false
  const fetching = asker.fetch(idOf(one), block.cid, {
    ...options(block.bytes.length),
    onBytes(count) {
      got += count
      if (lifted) return
      // The burst, and one piece that may overdraw it.
      const allowed = ((performance.now() - start) / 1000) * 400_000 + 100_000 + 128 * 1024
      assert.ok(got <= allowed, `${got} bytes where ${allowed} were allowed`)
    },
  })
  await until(() => got > 200_000)
  lifted = true
  sender.setRates({ uploadRate: undefined, downloadRate: undefined })
  const rest = asker.fetch(idOf(one), block.cid, options(block.bytes.length))
  assert.deepEqual(await fetching, block.bytes)
  assert.deepEqual(await rest, block.bytes)

  asker.setRates({ uploadRate: undefined, downloadRate: 50_000 })
  const abort = new AbortController()
  const waiting = [1, 2, 3].map(() =>
    asker
      .fetch(idOf(one), block.cid, options(block.bytes.length, { signal: abort.signal }))
      .then(() => 'done')
      .catch((error) => error.code),
  )
  await until(() => sender.totals().sent > 2 * block.bytes.length)
  assert.equal(asker.stats().downloads.requests <= 1, true, 'the others are not even asked for')
  abort.abort()
  assert.equal((await Promise.all(waiting)).filter((result) => result === 'ABORTED').length >= 2, true)
  await Promise.all([sender.close(), asker.close()])
  await Promise.all([one.stop(), two.stop()])
})
