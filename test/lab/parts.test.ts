import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { test } from 'node:test'
import { gunzipSync } from 'node:zlib'
import { digestOf } from '../../base/index.ts'
import { type FakeRegistry, startFakeRegistry } from '../fakes/registry.ts'
import { pull } from './client.ts'
import { randomLayer } from './image.ts'
import { parseRate } from './network.ts'
import { cpuMs, peakRss, startOf } from './proc.ts'
import { run, start, until } from './sh.ts'
import { formatTable } from './table.ts'

async function bytesOf(seed: string, size: number) {
  const layer = randomLayer(seed, size, 'data.bin')
  const parts: Buffer[] = []
  for await (const part of layer.bytes) parts.push(part)
  return { gz: Buffer.concat(parts), diffId: layer.diffId() }
}

test('a layer is a tar that tar can read, the same for the same seed, and its diff ID fits', async () => {
  const one = await bytesOf('a', 700_001)
  const same = await bytesOf('a', 700_001)
  const other = await bytesOf('b', 700_001)
  const plain = gunzipSync(one.gz)
  assert.equal(digestOf(plain), one.diffId)
  assert.ok(one.gz.equals(same.gz))
  assert.notEqual(one.diffId, other.diffId)
  const listing = execFileSync('tar', ['-tvf', '-'], { input: plain, encoding: 'utf8' })
  assert.match(listing, /700001 .* data\.bin\n$/)
  assert.ok(one.gz.length < 700_001 * 1.01, 'gzip only stores')
})

async function withRegistry(body: (registry: FakeRegistry) => Promise<void>): Promise<void> {
  const registry = await startFakeRegistry()
  try {
    await body(registry)
  } finally {
    await registry.close()
  }
}

test('the client pulls an image of an index and proves its digests', () =>
  withRegistry(async (registry) => {
    const platforms = ['linux/arm64', 'linux/amd64']
    const image = registry.addImage({ repository: 'a/b', tag: '1', layers: [300_000, 10], platforms })
    const report = await pull({ base: `${registry.url}/v2`, name: 'a/b', reference: '1' })
    assert.ok(report.ok, report.error)
    assert.equal(report.digest, image.digest)
    assert.equal(report.blobs.length, 3)
    assert.ok(report.blobs.every((blob) => blob.firstByteMs <= blob.totalMs))
    assert.equal(report.bytes, registry.totalSent())
  }))

test('the client tells wrong, missing and refused content', () =>
  withRegistry(async (registry) => {
    registry.addImage({ repository: 'a/b', tag: '1', layers: [300_000] })
    const base = `${registry.url}/v2`
    registry.fault({ path: /\/blobs\//, corrupt: 50 })
    assert.match((await pull({ base, name: 'a/b', reference: '1' })).error!, /wrong bytes/)
    registry.clearFaults()
    registry.fault({ path: /\/blobs\//, truncate: 50 })
    assert.ok(!(await pull({ base, name: 'a/b', reference: '1' })).ok)
    assert.match((await pull({ base, name: 'a/b', reference: '2' })).error!, /^404 /)
    registry.fault({ path: /\/manifests\//, stallHeaders: true })
    assert.match((await pull({ base, name: 'a/b', reference: '1', stallMs: 200 })).error!, /nothing came/)
  }))

test('rates and tables', () => {
  assert.equal(parseRate('100mbit'), 1e8)
  assert.equal(parseRate('1.5gbit'), 1.5e9)
  assert.throws(() => parseRate('fast'))
  assert.equal(
    formatTable([
      ['a', 'bytes'],
      ['long', '7'],
      ['x', '120'],
    ]),
    'a      bytes\nlong       7\nx        120',
  )
})

test('commands say what went wrong, and services end when told', async () => {
  await assert.rejects(run(['sh', '-c', 'echo oh no >&2; exit 3']), /failed \(3\): oh no/)
  await assert.rejects(run(['sleep', '30'], { timeoutMs: 50 }), { code: 'TIMEOUT' })
  await assert.rejects(run(['no-such-command-here']))
  const service = start(['sleep', '30'], { log: '/dev/null' })
  await until('it runs', () => startOf(service.pid) > 0 && peakRss(service.pid) > 0)
  assert.ok(cpuMs(service.pid) >= 0)
  await service.stop()
  assert.equal(await service.ended, 'SIGTERM')
  assert.equal(service.running(), false)
  assert.equal(startOf(service.pid), 0)
})
