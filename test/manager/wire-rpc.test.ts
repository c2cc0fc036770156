import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import type { Libp2p } from '@libp2p/interface'
import { ShoalError, silentLog } from '../../base/index.ts'
import { encodeFrame } from '../../manager/wire/codec.ts'
import { createRpc, type OpenRpc, RPC_PROTOCOL } from '../../manager/wire/index.ts'
import { idOf, record, startNodes, until } from './wire-nodes.ts'

let a: Libp2p
let b: Libp2p
let rpcA: OpenRpc
let rpcB: OpenRpc
let warnings = 0
let toB: string
let toA: string

before(async () => {
  ;[a, b] = (await startNodes(2)) as [Libp2p, Libp2p]
  toA = idOf(a)
  toB = idOf(b)
  rpcA = await createRpc({ node: a, log: silentLog() })
  rpcB = await createRpc({
    node: b,
    log: { ...silentLog(), warn: () => void warnings++ },
    limits: { maxHandlers: 4, maxAnswers: 5 << 20 },
  })
  rpcB.handle('echo', async (_peer, body) => body)
  rpcB.handle('who', async (peer) => peer)
  rpcB.handle('fail', async () => {
    throw new ShoalError('NOT_FOUND', 'no such thing')
  })
  rpcB.handle('crash', async () => {
    throw new TypeError('secret detail')
  })
  rpcB.handle('never', (_peer, _body, signal) => {
    return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
  })
})

after(async () => {
  await Promise.all([rpcA.close(), rpcB.close()])
  await Promise.all([a.stop(), b.stop()])
})

const ms = { timeoutMs: 10_000 }
const streamsTo = (node: Libp2p): number =>
  node.getConnections().flatMap(({ streams }) => streams.filter((s) => s.protocol === RPC_PROTOCOL)).length

test('a request is answered, knows its asker, and all share one stream', async () => {
  const body = { n: 1, bytes: Uint8Array.of(1, 2, 3), none: undefined }
  const answers = await Promise.all(Array.from({ length: 4 }, () => rpcA.request(toB, 'echo', body, ms)))
  for (const answer of answers) assert.deepEqual(answer, body)
  assert.equal(await rpcA.request(toB, 'who', null, ms), toA)
  assert.equal(streamsTo(a), 1)
})

test('both directions work at the same time', async () => {
  rpcA.handle('name', async () => 'a')
  assert.equal(await rpcB.request(toA, 'name', undefined, ms), 'a')
})

test('a large body passes, one over the limit is refused before it is sent', async () => {
  const body = Buffer.alloc(3 << 20, 5)
  assert.deepEqual(Buffer.from((await rpcA.request(toB, 'echo', body, ms)) as Uint8Array), body)
  await assert.rejects(rpcA.request(toB, 'echo', Buffer.alloc(5 << 20), ms), { code: 'PROTOCOL' })
})

test("the peer's error comes back with its code; an unexpected one tells nothing", async () => {
  await assert.rejects(rpcA.request(toB, 'fail', null, ms), { code: 'NOT_FOUND', message: 'no such thing' })
  await assert.rejects(rpcA.request(toB, 'crash', null, ms), { code: 'INTERNAL', message: 'crash failed' })
  await assert.rejects(rpcA.request(toB, 'unheard', null, ms), { code: 'PROTOCOL' })
})

test("a request that times out or is aborted aborts the peer's handler", async () => {
  const reasons: unknown[] = []
  rpcB.handle('wait', async (_peer, _body, signal) => {
    await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
    reasons.push(signal.reason)
  })
  await assert.rejects(rpcA.request(toB, 'wait', null, { timeoutMs: 30 }), { code: 'TIMEOUT' })
  const abort = new AbortController()
  const asked = rpcA.request(toB, 'wait', null, { ...ms, signal: abort.signal })
  await rpcA.request(toB, 'echo', 1, ms)
  abort.abort()
  await assert.rejects(asked, { code: 'ABORTED' })
  await until(() => reasons.length === 2)
  for (const reason of reasons) assert.equal((reason as ShoalError).code, 'ABORTED')
  await assert.rejects(rpcA.request(toB, 'echo', 1, { ...ms, signal: AbortSignal.abort() }), {
    code: 'ABORTED',
  })
})

test('more than the allowed handlers at once are refused, and later ones run again', async () => {
  const abort = new AbortController()
  const stuck = Array.from({ length: 4 }, () =>
    rpcA.request(toB, 'never', null, { ...ms, signal: abort.signal }).catch((error) => error.code),
  )
  await assert.rejects(rpcA.request(toB, 'echo', 1, ms), { code: 'BUSY' })
  abort.abort()
  assert.deepEqual(await Promise.all(stuck), ['ABORTED', 'ABORTED', 'ABORTED', 'ABORTED'])
  // A place is free when its handler has ended, which is a moment after the abort.
  let answer: unknown
  while (answer !== 1) answer = await rpcA.request(toB, 'echo', 1, ms).catch((error) => error)
})

test('notes arrive in order, and to nobody they are silent', async () => {
  const heard: unknown[] = []
  rpcB.handle('note', async (_peer, body) => void heard.push(body))
  for (let i = 0; i < 4; i++) {
    rpcA.notify(toB, 'note', i)
    await until(() => heard.length === i + 1)
  }
  assert.deepEqual(heard, [0, 1, 2, 3])
  rpcA.notify('12D3KooWNoSuchPeer', 'note', 1)
  rpcA.notify(toB, 'unheard', 1)
})

test('a peer that is not there is PEER_GONE', async () => {
  const stranger = (await startNodes(1))[0] as Libp2p
  const id = idOf(stranger)
  await stranger.stop()
  await assert.rejects(rpcA.request(id, 'echo', 1, ms), { code: 'PEER_GONE' })
  await assert.rejects(rpcA.request('nonsense', 'echo', 1, ms), { code: 'PEER_GONE' })
})

test('bad frames end the stream, are logged once, and harm nobody else', async () => {
  const bad: Record<string, Buffer> = {
    'no CBOR': Buffer.from([0, 0, 0, 2, 0xff, 0xff]),
    empty: Buffer.from([0, 0, 0, 0]),
    oversize: Buffer.from([0xff, 0xff, 0xff, 0xff]),
    'no map': encodeFrame([1]),
    'no method': encodeFrame({ id: 1 }),
    'an answer': encodeFrame({ id: 1, ok: 1 }),
    'a bad id': encodeFrame({ id: -1, method: 'echo' }),
    'a long method': encodeFrame({ id: 1, method: 'x'.repeat(100) }),
    'the same id twice': Buffer.concat([
      encodeFrame({ id: 9, method: 'never' }),
      encodeFrame({ id: 9, method: 'never' }),
    ]),
  }
  for (const [name, bytes] of Object.entries(bad)) {
    const stream = await a.dialProtocol(b.getMultiaddrs(), RPC_PROTOCOL)
    const { closed } = record(stream)
    stream.send(bytes)
    await until(closed)
    assert.ok(closed(), name)
  }
  assert.equal(warnings, 1)
  assert.equal(await rpcA.request(toB, 'echo', 1, ms), 1)
})

test('a peer that asks and does not read the answers loses its stream', async () => {
  const stream = await a.dialProtocol(b.getMultiaddrs(), RPC_PROTOCOL)
  const { closed } = record(stream)
  stream.pause()
  const frame = encodeFrame({ id: 1, method: 'echo', body: Buffer.alloc(200_000) })
  for (let i = 0; i < 200 && !closed() && stream.writeStatus === 'writable'; i++) {
    if (!stream.writableNeedsDrain) stream.send(frame)
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
  await until(closed)
})

test('an answer to what was not asked ends the stream', async () => {
  const [liar, asker] = (await startNodes(2)) as [Libp2p, Libp2p]
  const rpc = await createRpc({ node: asker, log: silentLog() })
  await liar.handle(RPC_PROTOCOL, (stream) => {
    stream.addEventListener('message', () => stream.send(encodeFrame({ id: 77, ok: 1 })))
  })
  await assert.rejects(rpc.request(idOf(liar), 'echo', 1, ms), { code: 'PEER_GONE' })
  await Promise.all([liar.stop(), asker.stop()])
})

test('when the connection goes, requests fail and handlers abort; a new one is used afterwards', async () => {
  const [c, d] = (await startNodes(2)) as [Libp2p, Libp2p]
  const rpcC = await createRpc({ node: c, log: silentLog() })
  const rpcD = await createRpc({ node: d, log: silentLog() })
  let aborted = false
  rpcC.handle('never', (_peer, _body, signal) => {
    return new Promise((_, reject) =>
      signal.addEventListener('abort', () => {
        aborted = true
        reject(signal.reason)
      }),
    )
  })
  rpcC.handle('echo', async (_peer, body) => body)
  const asked = rpcD.request(idOf(c), 'never', null, ms)
  await rpcD.request(idOf(c), 'echo', 1, ms)
  for (const connection of d.getConnections()) connection.abort(new Error('cut'))
  await assert.rejects(asked, { code: 'PEER_GONE' })
  await until(() => aborted)
  await d.dial(c.getMultiaddrs())
  assert.equal(await rpcD.request(idOf(c), 'echo', 2, ms), 2)
  await rpcC.close()
  await assert.rejects(rpcC.request(idOf(d), 'echo', 1, ms), { code: 'ABORTED' })
  await Promise.all([c.stop(), d.stop()])
})
