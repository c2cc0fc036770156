import assert from 'node:assert/strict'
import { afterEach, beforeEach, test } from 'node:test'
import type { Libp2p, Stream } from '@libp2p/interface'
import { silentLog } from '../../base/index.ts'
import { cidOfHash, hashOfCid } from '../../blockstore/cid.ts'
import { askFrame, cancelFrame, dataFrame, END, endFrame, FRAME } from '../../manager/wire/blockframes.ts'
import { BLOCKS_PROTOCOL, createExchange, type OpenExchange } from '../../manager/wire/index.ts'
import { idOf, memoryBlocks, record, startNodes, until } from './wire-nodes.ts'

let liar: Libp2p
let honest: Libp2p
let exchange: OpenExchange
let warnings: number
const store = memoryBlocks()
const { cid, bytes } = store.add(1000)

beforeEach(async () => {
  warnings = 0
  ;[liar, honest] = (await startNodes(2)) as [Libp2p, Libp2p]
  exchange = await createExchange({
    node: honest,
    provide: store.provide,
    log: { ...silentLog(), warn: () => void warnings++ },
    limits: { maxQueued: 8 },
  })
})

afterEach(async () => {
  await exchange.close()
  await Promise.all([liar.stop(), honest.stop()])
})

/** Answers each request that the liar gets. */
async function answer(how: (stream: Stream, id: number) => void): Promise<void> {
  await liar.handle(BLOCKS_PROTOCOL, (stream) => {
    stream.addEventListener('message', ({ data }) => {
      const frames = Buffer.from(data.subarray())
      for (let at = 0; at < frames.length; at += frames[at] === FRAME.ASK ? 44 : 12) {
        if (frames[at] === FRAME.ASK) how(stream, frames.readUInt32BE(at + 4))
      }
    })
  })
}

function ask(stallMs = 10_000, more: { signal?: AbortSignal; into?: () => Buffer } = {}): Promise<Buffer> {
  const signal = new AbortController().signal
  return exchange.fetch(idOf(liar), cid, { length: 1000, priority: 'client', signal, stallMs, ...more })
}

const lies: Record<string, (stream: Stream, id: number) => void> = {
  'more bytes than were asked for': (s, id) => s.send(dataFrame(id, Buffer.alloc(1001), 0, 1001)),
  'more bytes in a second piece': (s, id) => {
    s.send(dataFrame(id, bytes, 0, 999))
    s.send(dataFrame(id, bytes, 0, 2))
  },
  'a block nobody asked for': (s, id) => s.send(dataFrame(id + 1, bytes, 0, 1000)),
  'an end nobody asked for': (s, id) => s.send(endFrame(id + 1, END.MISSING)),
  'an empty piece': (s, id) => s.send(dataFrame(id, bytes, 0, 0)),
  'a piece over the bound': (s, id) => {
    const frame = dataFrame(id, bytes, 0, 1000)
    frame.writeUInt32BE(0xffff_ffff, 8)
    s.send(frame)
  },
  'a frame type that is unknown': (s) => s.send(Buffer.alloc(12, 0x7f)),
  'a request': (s, id) => s.send(askFrame(id, 'client', 1000, Buffer.alloc(32))),
  'an end for no known reason': (s, id) => s.send(endFrame(id, 99 as never)),
  'the end of a cancellation that was none': (s, id) => s.send(endFrame(id, END.CANCELLED)),
  'a closed stream in mid-block': (s, id) => {
    s.send(dataFrame(id, bytes, 0, 500))
    void s.close()
  },
  'a reset in mid-block': (s, id) => {
    s.send(dataFrame(id, bytes, 0, 500))
    s.abort(new Error('gone'))
  },
}

for (const [name, lie] of Object.entries(lies)) {
  test(`${name}: the fetch fails at once and so do the others on the stream`, async () => {
    let answered = 0
    // The first two stay open, the third gets the lie.
    await answer((stream, id) => {
      if (++answered === 3) lie(stream, id)
    })
    const results = await Promise.allSettled([ask(), ask(), ask()])
    for (const result of results) {
      assert.equal(result.status, 'rejected')
      assert.equal(result.reason.code, 'PEER_GONE')
    }
    assert.ok(warnings <= 1)
    await until(() => exchange.stats().downloads.streams === 0)
  })
}

test('wrong bytes of the right length are given as they are: checking them is up to the caller', async () => {
  const other = Buffer.alloc(1000, 1)
  await answer((stream, id) => stream.send(dataFrame(id, other, 0, 1000)))
  assert.deepEqual(await ask(), other)
})

test('missing, busy and failed are told apart and leave the stream in use', async () => {
  const reasons = [END.MISSING, END.BUSY, END.FAILED]
  await answer((stream, id) => {
    const reason = reasons.shift()
    stream.send(reason ? endFrame(id, reason) : dataFrame(id, bytes, 0, 1000))
  })
  await assert.rejects(ask(), { code: 'BLOCK_MISSING' })
  await assert.rejects(ask(), { code: 'BUSY' })
  await assert.rejects(ask(), { code: 'INTERNAL' })
  assert.deepEqual(await ask(), bytes)
  assert.equal(warnings, 0)
})

test('a stall in mid-block is a TIMEOUT; what comes late is thrown away', async () => {
  let stream: Stream | undefined
  let late = 0
  await answer((s, id) => {
    if (stream) {
      s.send(dataFrame(id, bytes, 0, 1000))
      return
    }
    stream = s
    late = id
    s.send(dataFrame(id, bytes, 0, 400))
  })
  const into = Buffer.alloc(1000)
  await assert.rejects(ask(150, { into: () => into }), { code: 'TIMEOUT' })
  into.fill(0)
  stream?.send(dataFrame(late, bytes, 400, 600))
  assert.deepEqual(await ask(), bytes)
  assert.ok(into.every((byte) => byte === 0))
})

test('a peer that never answers costs nothing but the wait, and its stream is given up in the end', async () => {
  await answer(() => {})
  const abort = new AbortController()
  for (let round = 0; round < 50; round++) {
    const asked = Array.from({ length: 6 }, () => ask(10_000, { signal: AbortSignal.timeout(5) }))
    for (const { status } of await Promise.allSettled(asked)) assert.equal(status, 'rejected')
  }
  abort.abort()
  assert.equal(exchange.stats().downloads.requests, 0)
})

test('bytes in single-byte pieces make a block too', async () => {
  await answer((stream, id) => {
    for (let i = 0; i < 1000; i++) stream.send(dataFrame(id, bytes, i, 1))
  })
  assert.deepEqual(await ask(), bytes)
})

// The other way round: what a bad asker sends to an honest server.

const hash = hashOfCid(cid)
const badRequests: Record<string, Buffer> = {
  'length zero': askFrame(1, 'client', 0, hash),
  'a length over the bound': askFrame(1, 'client', 0xffff_ffff, hash),
  'an unknown flag': Buffer.from(askFrame(1, 'client', 10, hash)).fill(7, 1, 2),
  'unknown fields': Buffer.from(askFrame(1, 'client', 10, hash)).fill(7, 2, 3),
  'an id that is in use': Buffer.concat([askFrame(1, 'client', 10, hash), askFrame(1, 'client', 10, hash)]),
  data: dataFrame(1, bytes, 0, 100),
  'a cancel with a length': Buffer.from(cancelFrame(1)).fill(1, 11, 12),
}

for (const [name, frame] of Object.entries(badRequests)) {
  test(`a request with ${name} ends the stream`, async () => {
    const stream = await liar.dialProtocol(honest.getMultiaddrs(), BLOCKS_PROTOCOL)
    const { closed } = record(stream)
    stream.send(frame)
    await until(closed)
    await until(() => exchange.stats().uploads.streams === 0)
    assert.equal(warnings, 1)
    assert.equal(exchange.stats().uploads.queued, 0)
  })
}

test('requests over the bound are told to be too many, the others are answered', async () => {
  const stream = await liar.dialProtocol(honest.getMultiaddrs(), BLOCKS_PROTOCOL)
  const { bytes: received } = record(stream)
  stream.send(Buffer.concat(Array.from({ length: 12 }, (_, id) => askFrame(id, 'preheat', 1000, hash))))
  await until(() => received().length === 8 * 1012 + 4 * 12)
  const ends = [8, 9, 10, 11].map((id) => endFrame(id, END.BUSY).toString('hex'))
  for (const end of ends) assert.ok(received().includes(Buffer.from(end, 'hex')))
})

test('a cancel of what is unknown is ignored', async () => {
  const stream = await liar.dialProtocol(honest.getMultiaddrs(), BLOCKS_PROTOCOL)
  const { bytes: received } = record(stream)
  stream.send(Buffer.concat([cancelFrame(5), askFrame(5, 'client', 1000, hash), cancelFrame(6)]))
  await until(() => received().length === 1012)
  assert.deepEqual(received().subarray(12), bytes)
})

test('one who asks on and on without reading loses the stream', async () => {
  const stream = await liar.dialProtocol(honest.getMultiaddrs(), BLOCKS_PROTOCOL)
  const { closed } = record(stream)
  stream.pause()
  const nowhere = hashOfCid(cidOfHash(Buffer.alloc(32, 8)))
  const flood = Buffer.concat(Array.from({ length: 1000 }, (_, id) => askFrame(id + 1, 'client', 5, nowhere)))
  for (let i = 0; i < 500 && !closed() && stream.writeStatus === 'writable'; i++) {
    if (!stream.writableNeedsDrain) stream.send(flood)
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
  await until(closed)
})
