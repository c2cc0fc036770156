/**
 * TLS against noise: `node test/bench/encrypter.ts [rounds]`. For each, two processes on loopback: what loading it costs in
 * memory, a connection's set-up, and the goodput of four streams of 64 KiB messages with the CPU time of both ends.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { generateKeyPair } from '@libp2p/crypto/keys'
import type { Stream } from '@libp2p/interface'
import { multiaddr } from '@multiformats/multiaddr'
import { createNode, type EncrypterName } from '../../manager/network/index.ts'

const MIB = 1024 * 1024
const TOTAL = 1024 * MIB
const STREAMS = 4
const PROTOCOL = '/bench/1'
const clusterKey = new Uint8Array(32).fill(7)

async function open(encrypter: EncrypterName, listen: string[]) {
  return createNode({ privateKey: await generateKeyPair('Ed25519'), clusterKey, listen, encrypter })
}

async function send(stream: Stream, total: number): Promise<void> {
  const message = new Uint8Array(64 * 1024).fill(1)
  for (let sent = 0; sent < total; sent += message.length) {
    stream.send(message)
    while (stream.writeBufferLength > MIB) {
      await new Promise((resolve) => stream.addEventListener('drain', resolve, { once: true }))
    }
  }
  await stream.close()
}

async function receiver(encrypter: EncrypterName): Promise<void> {
  const node = await open(encrypter, ['/ip4/127.0.0.1/tcp/0'])
  let got = 0
  let start = process.cpuUsage()
  await node.handle(PROTOCOL, (stream) => {
    stream.addEventListener('message', (event) => {
      if (got === 0) start = process.cpuUsage()
      got += event.data.byteLength
      if (got === TOTAL)
        process.send?.({ cpu: process.cpuUsage(start), rss: process.resourceUsage().maxRSS / 1024 })
    })
  })
  process.send?.({ address: node.getMultiaddrs()[0]?.toString(), rss: process.memoryUsage.rss() / MIB })
}

async function sender(encrypter: EncrypterName) {
  const child = fork(import.meta.filename, ['receiver', encrypter])
  const [hello] = (await once(child, 'message')) as [{ address: string; rss: number }]
  const node = await open(encrypter, [])
  const address = multiaddr(hello.address)
  const dialCpu = process.cpuUsage()
  const dialStart = performance.now()
  const dials = 20
  for (let i = 0; i < dials; i++) await (await node.dial(address)).close()
  const dialMs = (performance.now() - dialStart) / dials
  const dialUsed = process.cpuUsage(dialCpu)
  const connection = await node.dial(address)
  const streams = await Promise.all(Array.from({ length: STREAMS }, () => connection.newStream(PROTOCOL)))
  const cpu = process.cpuUsage()
  const start = performance.now()
  const reply = once(child, 'message') as Promise<[{ cpu: NodeJS.CpuUsage; rss: number }]>
  await Promise.all(streams.map((stream) => send(stream, TOTAL / STREAMS)))
  const [result] = await reply
  const seconds = (performance.now() - start) / 1000
  const used = process.cpuUsage(cpu)
  child.kill()
  await node.stop()
  return {
    encrypter,
    'loaded RSS MiB': Math.round(hello.rss),
    'dial ms': Math.round(dialMs),
    'dial CPU ms': Math.round((dialUsed.user + dialUsed.system) / 1000 / dials),
    'MiB/s': Math.round(TOTAL / MIB / seconds),
    'sender CPU s/GiB': ((used.user + used.system) / 1e6).toFixed(2),
    'receiver CPU s/GiB': ((result.cpu.user + result.cpu.system) / 1e6).toFixed(2),
    'sender peak MiB': Math.round(process.resourceUsage().maxRSS / 1024),
    'receiver peak MiB': Math.round(result.rss),
  }
}

const [role, name] = process.argv.slice(2)
const ENCRYPTERS = name === undefined ? ['tls', 'noise'] : [name]
if (role === 'receiver') await receiver(name === 'noise' ? 'noise' : 'tls')
else if (role === 'sender') {
  process.send?.(await sender(name === 'noise' ? 'noise' : 'tls'))
  process.disconnect?.()
} else {
  const rows = []
  for (let round = 0; round < Number(role ?? 3); round++) {
    for (const encrypter of ENCRYPTERS) {
      const child = fork(import.meta.filename, ['sender', encrypter])
      rows.push(((await once(child, 'message')) as [object])[0])
      await once(child, 'exit')
    }
  }
  console.table(rows)
}
