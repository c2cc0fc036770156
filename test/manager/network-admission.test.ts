import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { yamux } from '@chainsafe/libp2p-yamux'
import { generateKeyPair } from '@libp2p/crypto/keys'
import type { Libp2p, Stream } from '@libp2p/interface'
import { tcp } from '@libp2p/tcp'
import { tls } from '@libp2p/tls'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { createNode, type EncrypterName } from '../../manager/network/index.ts'
import { knockBytes } from '../../manager/network/knock.ts'

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
    const first = connect(portOf(node), '127.0.0.1')
    first.on('error', () => {})
    first.write(Buffer.concat([knock, Buffer.from('\x13/multistream/1.0.0\n')]))
    await once(first, 'data')
    first.destroy()
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

  test('does not speak a protocol to one that overheard a knock but has no key', async () => {
    // A relay that steals a member's knock for its own connection, and then does all that libp2p wants.
    const theft = await stealKnock()
    const thief = await createLibp2p({
      transports: [withPrefix(theft.knock)],
      connectionEncrypters: [tls()],
      streamMuxers: [yamux()],
      connectionMonitor: { enabled: false },
    })
    // Its own handshake succeeds, then the binding is missing: the connection ends and no stream ever opens.
    const outcome = await thief
      .dial(addressOf(node))
      .then((connection) => connection.newStream('/echo/1', { signal: AbortSignal.timeout(5000) }))
      .then(
        () => 'admitted',
        () => 'closed',
      )
    assert.equal(outcome, 'closed')
    assert.equal(node.getConnections().length, 0)
    await thief.stop()
    theft.server.close()
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
    const dialers = await Promise.all(
      Array.from({ length: 40 }, () => start({ listen: [], encrypter: 'noise' })),
    )
    const hub = await start({ encrypter: 'noise' })
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
  for (let i = 0; i < 500 && !condition(); i++) await sleep(20)
  assert.ok(condition())
}

/** A listener to which a member is made to dial, and what it said first. */
async function stealKnock(): Promise<{ knock: Buffer; server: Server }> {
  const server = createServer()
  const heard = new Promise<Buffer>((resolve) => {
    server.on('connection', (socket) => {
      socket.on('error', () => {})
      socket.once('data', (chunk: Buffer) => {
        resolve(Buffer.from(chunk.subarray(0, 64)))
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
  return { knock: await heard, server }
}

/** A TCP transport whose dialer sends these bytes first. */
function withPrefix(bytes: Uint8Array): ReturnType<typeof tcp> {
  const make = tcp()
  return (components) => {
    const inner = make(components)
    const dial = inner.dial.bind(inner)
    inner.dial = (address, options) => {
      const upgrader = Object.create(options.upgrader)
      upgrader.upgradeOutbound = (
        connection: { send(data: Uint8Array): boolean },
        upgradeOptions: object,
      ) => {
        connection.send(bytes)
        return Reflect.apply(options.upgrader.upgradeOutbound, options.upgrader, [connection, upgradeOptions])
      }
      return dial(address, { ...options, upgrader })
    }
    return inner
  }
}
