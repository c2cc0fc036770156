import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { crc32, gunzipSync } from 'node:zlib'
import { type Digest, digestOf } from '../../../base/index.ts'
import { readVirtual, type Virtual } from '../../../integration/checkpoint/virtual.ts'
import { virtualGzip } from '../../../integration/checkpoint/virtual-gzip.ts'
import { virtualTar } from '../../../integration/checkpoint/virtual-tar.ts'
import { createSwarm } from '../../manager/swarm.ts'
import { checkpointsOn } from './tools.ts'

const signal = AbortSignal.timeout(120_000)

/** Files in memory; counts how often one is opened. */
function files(contents: Record<string, Buffer>) {
  const opened: string[] = []
  return {
    opened,
    async *read(path: string, start: number, end: number): AsyncGenerator<Uint8Array> {
      opened.push(path)
      const bytes = contents[path]!.subarray(start, end)
      for (let at = 0; at < bytes.length; at += 10_007) yield bytes.subarray(at, at + 10_007)
    },
  }
}

async function read(
  blob: Virtual,
  source: ReturnType<typeof files>,
  range = { start: 0, end: blob.size },
): Promise<Buffer> {
  const parts: Buffer[] = []
  for await (const chunk of readVirtual(blob, range, source.read)) parts.push(Buffer.from(chunk))
  return Buffer.concat(parts)
}

/** Any range is the same part of the whole. */
async function assertRanges(blob: Virtual, source: ReturnType<typeof files>): Promise<Buffer> {
  const whole = await read(blob, source)
  assert.equal(whole.length, blob.size)
  for (let round = 0; round < 50; round++) {
    const start = Math.floor(Math.random() * blob.size)
    const end = start + Math.floor(Math.random() * (blob.size - start + 1))
    assert.deepEqual(await read(blob, source, { start, end }), whole.subarray(start, end), `${start}-${end}`)
  }
  return whole
}

test('a virtual tar is one that tar reads, and every range of it can be made', async () => {
  const contents = {
    'criu/a.img': randomBytes(70_000),
    'criu/empty.img': Buffer.alloc(0),
    'criu/sub/b.img': randomBytes(512),
  }
  const blob = virtualTar(
    Object.entries(contents).map(([path, { length }]) => ({ name: path.slice(5), path, size: length })),
  )
  const whole = await assertRanges(blob, files(contents))
  const listed = execFileSync('tar', ['-tv'], { input: whole }).toString()
  assert.match(listed, /70000 .* a\.img\n.* 0 .* empty\.img\n.* 512 .* sub\/b\.img\n$/)
  assert.deepEqual(execFileSync('tar', ['-xO', 'a.img'], { input: whole }), contents['criu/a.img'])
})

test('a file as gzip that does not compress: read in one go, and any range', async () => {
  for (const size of [0, 1, 65_535, 65_536, 300_001]) {
    const bytes = randomBytes(size)
    const blob = virtualGzip({ path: 'rw.tar', size, crc: crc32(bytes) })
    const source = files({ 'rw.tar': bytes })
    const whole = await read(blob, source)
    assert.ok(source.opened.length <= 1, `${source.opened.length} times for ${size} bytes`)
    assert.deepEqual(gunzipSync(whole), bytes)
    await assertRanges(blob, source)
  }
})

test('a file that is shorter than the checkpoint says gives no short tar', async () => {
  const blob = virtualTar([{ name: 'a', path: 'a', size: 1000 }])
  await assert.rejects(read(blob, files({ a: randomBytes(999) })), { code: 'PROTOCOL' })
})

test('the artifact is the same on every node, and what it names can be read there', async (t) => {
  const swarm = await createSwarm()
  const a = await checkpointsOn(await swarm.add())
  const b = await checkpointsOn(await swarm.add())
  t.after(async () => {
    for (const one of [a, b]) {
      await one.checkpoints.close()
      await one.states.close()
      one.runtime.stop()
    }
    await swarm.close()
  })
  const image = { reference: '127.0.0.1:5080/docker.io/library/app:1', digest: undefined }
  a.runtime.run('app', { image })
  const { checkpoint } = await a.checkpoints.create({
    container: 'app',
    runtime: 'containerd',
    leaveRunning: true,
    signal,
  })
  const { served } = b.checkpoints
  const found = await served.manifest('app', '1')
  assert.ok(found && 'bytes' in found)
  assert.equal(digestOf(found.bytes), checkpoint.digest)
  assert.deepEqual(await served.manifest('app', 'latest'), found)
  assert.deepEqual(await served.manifest('app', checkpoint.digest), found)
  assert.equal(await served.manifest('app', '2'), undefined)
  assert.equal(await served.manifest('no such', '2'), undefined)
  assert.deepEqual(await served.tags('app'), ['1'])
  const index = JSON.parse(found.bytes.toString()) as {
    manifests: { digest: Digest; size: number; mediaType: string }[]
  }
  assert.equal(index.manifests.length, 4)
  for (const { digest, size, mediaType } of index.manifests) {
    const blob = await served.blob('app', digest)
    assert.ok(blob && 'read' in blob, mediaType)
    assert.deepEqual([blob.size, blob.mediaType], [size, mediaType])
    const chunks = await Array.fromAsync(blob.read({ start: 0, end: size }, signal), (chunk) =>
      Buffer.from(chunk),
    )
    assert.equal(digestOf(Buffer.concat(chunks)), digest)
    const [part] = await Array.fromAsync(blob.read({ start: 1, end: 9 }, signal), (chunk) =>
      Buffer.from(chunk),
    )
    assert.deepEqual(part, Buffer.concat(chunks).subarray(1, 9))
  }
  // What it does not name is looked for in the base image's repository, with the node's own rights.
  const other = digestOf(Buffer.from('other'))
  assert.deepEqual(await served.blob('app', other), { of: { host: 'docker.io', repository: 'library/app' } })
  assert.equal(await served.blob('unknown', other), undefined)
  assert.equal(await served.isSecret(checkpoint.recipe), true)
  assert.equal(await served.isSecret(other), false)

  await a.checkpoints.create({
    container: 'app',
    runtime: 'containerd',
    name: 'sealed',
    leaveRunning: true,
    signal,
    encryptFor: [a.node.id],
  })
  await assert.rejects(served.manifest('sealed', '1'), { code: 'DENIED' })
  assert.ok(await a.checkpoints.served.manifest('sealed', '1'))
})
