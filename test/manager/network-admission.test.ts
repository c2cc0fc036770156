import assert from 'node:assert/strict'
import { generateKeyPairSync, type KeyObject, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect as connectTls } from 'node:tls'
import { yamux } from '@chainsafe/libp2p-yamux'
import { generateKeyPair } from '@libp2p/crypto/keys'
import type { Libp2p, Stream } from '@libp2p/interface'
import { tcp } from '@libp2p/tcp'
import { tls } from '@libp2p/tls'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { selfSignedCertificate } from '../../manager/network/certificate.ts'
import { KNOCK_LENGTH, knockBytes } from '../../manager/network/doorkeeper.ts'
import { createNode, type EncrypterName } from '../../manager/network/index.ts'

const clusterKey = randomBytes(32)
const LOOPBACK = '/ip4/127.0.0.1/tcp/0'

async function start(
  options: { key?: Uint8Array; listen?: string[]; encrypter?: EncrypterName; maxPending?: number } = {},
): Promise<Libp2p> {
  const { key = clusterKey, listen = [LOOPBACK], ...rest } = options
  return await createNode({ privateKey: await generateKeyPair('Ed25519'), clusterKey: key, listen, ...rest })
}

function portOf(node: Libp2p): number {
  return Number(node.getMultiaddrs()[0]!.getComponents()[1]!.value)
}

function addressOf(node: Libp2p) {
  return multiaddr(`/ip4/127.0.0.1/tcp/${portOf(node)}`)
}

async function echo(node: Libp2p): Promise<void> {
  await node.handle('/echo/1', (stream) => {
    stream.addEventListener('message', ({ data }) => stream.send(data))
  })
}

async function say(stream: Stream, text: string): Promise<string> {
  const heard = new Promise<string>((resolve) => {
    stream.addEventListener('message', ({ data }) => resolve(Buffer.from(data.subarray()).toString()))
  })
  stream.send(Buffer.from(text))
  return await heard
}

/** Connects, sends, and tells how many bytes came back until the other side ended the connection. */
async function stranger(port: number, ...sent: Uint8Array[]): Promise<number> {
  const socket = connect(port, '127.0.0.1')
  let received = 0
  socket.on('data', (chunk) => {
    received += chunk.length
  })
  // A reset is an end like another.
  socket.on('error', () => {})
  for (const bytes of sent) socket.write(bytes)
  await new Promise((resolve) => socket.once('close', resolve))
  return received
}

describe('a node', () => {
  let node: Libp2p
  before(async () => {
    node = await start()
    await echo(node)
  })
  after(() => node.stop())

  for (const encrypter of ['tls', 'noise'] as const) {
    test(`admits a peer with the key, over ${encrypter}, without knowing its ID`, async () => {
      const listener = await start({ encrypter })
      const dialer = await start({ encrypter, listen: [] })
      await echo(listener)
      const connection = await dialer.dial(addressOf(listener))
      assert.equal(connection.remotePeer.toString(), listener.peerId.toString())
      const stream = await connection.newStream('/echo/1')
      assert.equal(await say(stream, 'hello'), 'hello')
      assert.deepEqual(listener.getProtocols(), ['/echo/1'])
      await Promise.all([listener.stop(), dialer.stop()])
    })
  }

  const strangers: Record<string, () => Uint8Array[]> = {
    'a wrong key': () => [knockBytes(randomBytes(32))],
    garbage: () => [randomBytes(64)],
    'an HTTP request': () => [
      Buffer.from(`GET / HTTP/1.1\r\nHost: x\r\nUser-Agent: ${'y'.repeat(64)}\r\n\r\n`),
    ],
    'a lot of garbage': () => [randomBytes(1024 * 1024)],
    'a few bytes': () => [randomBytes(10)],
    silence: () => [],
    'half a knock': () => [knockBytes(clusterKey).subarray(0, 63)],
    'the multistream greeting': () => [Buffer.from(`\x13/multistream/1.0.0\n${' '.repeat(64)}`)],
  }
  test('sends nothing to strangers, whatever they say, and ends their connections', async () => {
    const received = Object.entries(strangers).map(async ([what, bytes]) => [
      what,
      await stranger(portOf(node), ...bytes()),
    ])
    const nothing = Object.keys(strangers).map((what) => [what, 0])
    assert.deepEqual(await Promise.all(received), nothing)
  })

  test('takes a knock once', async () => {
    const knock = knockBytes(clusterKey)
    assert.equal((await handshake(portOf(node), knock, randomBytes(32))).secured, true)
    assert.equal((await handshake(portOf(node), knock, randomBytes(32))).secured, false)
    assert.equal(await stranger(portOf(node), knock), 0)
  })

  test('gives nothing to a libp2p node that does not knock', async () => {
    const other = await createLibp2p({
      transports: [tcp()],
      connectionEncrypters: [tls()],
      streamMuxers: [yamux()],
      connectionMonitor: { enabled: false },
    })
    await assert.rejects(other.dial(addressOf(node)))
    assert.equal(node.getConnections().length, 0)
    await other.stop()
  })

  test('and a node with another key give each other nothing', async () => {
    const other = await start({ key: randomBytes(32) })
    await assert.rejects(other.dial(addressOf(node)))
    await assert.rejects(node.dial(addressOf(other)))
    assert.deepEqual([node.getConnections(), other.getConnections()], [[], []])
    await other.stop()
  })

  test('says nothing to one that overheard a knock but has no key', async () => {
    const thief = await handshake(portOf(node), await stealKnock(), randomBytes(32))
    assert.deepEqual(thief, { secured: true, received: 0 })
    const silent = await handshake(portOf(node), await stealKnock())
    assert.deepEqual(silent, { secured: true, received: 0 })
    assert.equal(node.getConnections().length, 0)
  })

  test('wants a certificate of the identity in whose name the peer speaks', async () => {
    const nobody = await handshake(portOf(node), knockBytes(clusterKey), randomBytes(32), null)
    assert.equal(nobody.received, 0)
    assert.equal(node.getConnections().length, 0)
  })

  test('lets members in while strangers flood it', async () => {
    const small = await start({ maxPending: 16 })
    await echo(small)
    const flood: Socket[] = Array.from({ length: 100 }, () =>
      connect(portOf(small), '127.0.0.1').on('error', () => {}),
    )
    await Promise.all(flood.map((socket) => once(socket, 'connect')))
    const member = await start({ listen: [] })
    const connection = await member.dial(addressOf(small))
    assert.equal(await say(await connection.newStream('/echo/1'), 'in'), 'in')
    for (const socket of flood) socket.destroy()
    await Promise.all([small.stop(), member.stop()])
  })

  test('admits 40 nodes that dial at once, and 100 streams of one right after its dial', async () => {
    const dialers = await Promise.all(Array.from({ length: 40 }, () => start({ listen: [] })))
    const hub = await start()
    await hub.handle(
      '/echo/1',
      (stream) => stream.addEventListener('message', ({ data }) => stream.send(data)),
      {
        maxInboundStreams: 200,
      },
    )
    const connections = await Promise.all(dialers.map((dialer) => dialer.dial(addressOf(hub))))
    await waitFor(() => hub.getPeers().length === 40)
    const options = { maxOutboundStreams: 200 }
    const streams = await Promise.all(
      Array.from({ length: 100 }, () => connections[0]!.newStream('/echo/1', options)),
    )
    assert.equal((await Promise.all(streams.map((stream) => say(stream, 'x')))).length, 100)
    await Promise.all([hub, ...dialers].map((one) => one.stop()))
  })
})

async function waitFor(condition: () => boolean): Promise<void> {
  for (const end = performance.now() + 60_000; !condition() && performance.now() < end; ) await sleep(20)
  assert.ok(condition())
}

/** What a member that was made to dial said first. */
async function stealKnock(): Promise<Buffer> {
  const server = createServer()
  const heard = new Promise<Buffer>((resolve) => {
    server.on('connection', (socket) => {
      socket.on('error', () => {})
      socket.once('data', (chunk: Buffer) => {
        resolve(Buffer.from(chunk.subarray(0, KNOCK_LENGTH)))
        socket.destroy()
      })
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  const member = await start({ listen: [] })
  await member.dial(multiaddr(`/ip4/127.0.0.1/tcp/${port}`)).catch(() => {})
  await member.stop()
  server.close()
  return await heard
}

/** Knocks and does TLS with an identity of its own, or none; tells what came back over TLS until the connection ended. */
async function handshake(
  port: number,
  knock: Uint8Array,
  said?: Uint8Array,
  key: KeyObject | null = generateKeyPairSync('ed25519').privateKey,
): Promise<{ secured: boolean; received: number }> {
  const raw = connect(port, '127.0.0.1').on('error', () => {})
  raw.write(knock)
  const identity =
    key === null
      ? {}
      : { key: key.export({ format: 'pem', type: 'pkcs8' }), cert: selfSignedCertificate(key) }
  const socket = connectTls({ socket: raw, rejectUnauthorized: false, ...identity })
  const result = { secured: false, received: 0 }
  socket.on('error', () => {})
  socket.on('secureConnect', () => {
    result.secured = true
    if (said !== undefined) socket.write(said)
  })
  socket.on('data', (bytes) => {
    result.received += bytes.length
  })
  await new Promise((resolve) => socket.once('close', resolve))
  return result
}
