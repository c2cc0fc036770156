import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdir, readdir, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { isShoalError } from '../../../base/index.ts'
import { run } from '../../../integration/runtime/run.ts'
import { unpackImage } from '../../../integration/runtime/runc/image.ts'
import { lacking } from '../../e2e/support.ts'
import { until } from '../../lab/index.ts'
import { pushImage } from '../../lab/push.ts'
import { startRegistry } from '../../lab/registry.ts'
import { quiet } from './layer-support.ts'
import { createRuncPlace, type RuncPlace } from './runc-support.ts'

const COUNT =
  'i=0; while :; do i=$((i+1)); echo $i > /new; /bin/busybox mv /new /count; /bin/busybox usleep 50000; done'

describe('runc on a base image', { skip: lacking('runc', 'criu') }, () => {
  let place: RuncPlace
  let registry: string
  let digest: string
  let stop: () => Promise<unknown>

  before(async () => {
    const port = await freePort()
    registry = `127.0.0.1:${port}`
    place = await createRuncPlace(registry)
    const service = await startRegistry({
      dir: join(place.dir, 'registry'),
      address: '127.0.0.1',
      port,
      private: false,
    })
    stop = () => service.stop()
    const spec = {
      name: 'lab/app',
      tag: '1',
      layers: [50_000, 1000],
      runnable: true,
      platforms: ['linux/s390x'],
    }
    digest = (await pushImage(`http://${registry}`, spec)).digest
  })
  after(async () => {
    await stop?.()
    await place?.close()
  })

  /** A bundle whose root file system is an overlay on the image. */
  async function overlayBundle(name: string): Promise<{ path: string; unmount: () => Promise<unknown> }> {
    const lower = await unpackImage({
      reference: `${registry}/lab/app:1`,
      registry,
      dir: join(place.dir, 'unpacked'),
      signal: quiet,
    })
    const path = await place.bundle(name, ['/bin/busybox', 'sh', '-c', COUNT], (spec) => {
      spec.annotations = {
        'org.opencontainers.image.base.name': `${registry}/lab/app:1`,
        'org.opencontainers.image.base.digest': digest,
      }
    })
    for (const each of ['upper', 'work']) await mkdir(join(path, each))
    const rootfs = join(path, 'rootfs')
    const options = `lowerdir=${lower},upperdir=${join(path, 'upper')},workdir=${join(path, 'work')}`
    await run('mount', ['-t', 'overlay', 'overlay', '-o', options, rootfs], { signal: quiet })
    return { path, unmount: () => run('umount', ['-l', rootfs], { signal: quiet }) }
  }

  test('only the writable layer moves, and the image is pulled and unpacked', async () => {
    const { runtime } = place
    const bundle = await overlayBundle('based')
    try {
      await place.start('based', bundle.path)
      const count = async (id: string): Promise<number> => {
        const read = await runtime.exec(id, ['/bin/busybox', 'cat', '/count'], {
          timeoutMs: 30_000,
          signal: quiet,
        })
        return read.code === 0 ? Number(read.output) : 0
      }
      await until('it counts', async () => (await count('based')) > 2)
      const shell = [
        '/bin/busybox',
        'sh',
        '-c',
        'busybox() { /bin/busybox "$@"; }; busybox rm /layer-0.bin; busybox touch /mine',
      ]
      assert.equal((await runtime.exec('based', shell, { timeoutMs: 30_000, signal: quiet })).code, 0)
      const found = await runtime.inspect('based', quiet)
      assert.deepEqual(found.image, { reference: `${registry}/lab/app:1`, digest })

      await runtime.pause('based', quiet)
      const stood = await count('based').catch(() => 0)
      const dir = join(place.dir, 'images')
      await mkdir(dir)
      await runtime.dump('based', { dir, leave: 'as-it-was' }, quiet)
      const recreation = await runtime.describe('based', quiet)
      const options = { name: 'moved', recreation, image: `${registry}/lab/app@${digest}` }
      const prepared = await runtime.prepare(options, quiet)
      await prepared.applyWritable(await runtime.writable('based', quiet), quiet)
      assert.equal(await runtime.remove('based', quiet), true)
      assert.ok((await readdir(bundle.path)).includes('config.json'), 'another’s bundle stays')
      await prepared.start(dir, quiet)
      await until('it counts on', async () => (await count('moved')) > stood)
      const see = await runtime.exec('moved', ['/bin/busybox', 'ls', '/'], {
        timeoutMs: 30_000,
        signal: quiet,
      })
      assert.ok(see.output.includes('mine') && see.output.includes('layer-1.bin'), see.output)
      assert.ok(!see.output.includes('layer-0.bin'), see.output)
      assert.deepEqual((await runtime.inspect('moved', quiet)).image, found.image)
      assert.equal(await runtime.remove('moved', quiet), true)
      assert.deepEqual(await readdir(join(place.dir, 'shoal/bundles')), [])
    } finally {
      await runtime.remove('based', quiet)
      await bundle.unmount()
    }
  })

  test('an image that is not there, or has other bytes, is refused', async () => {
    const dir = join(place.dir, 'none')
    const pull = (reference: string) => unpackImage({ reference, registry, dir, signal: quiet })
    await assert.rejects(pull(`${registry}/lab/none:1`), (error) => isShoalError(error, 'NOT_FOUND'))
    const blobs = join(place.dir, 'registry/data/docker/registry/v2/blobs/sha256')
    const pushed = await pushImage(`http://${registry}`, { name: 'lab/bad', tag: '1', layers: [90_000] })
    const hex = pushed.layers[0]!.digest.slice('sha256:'.length)
    const other = await pushImage(`http://${registry}`, { name: 'lab/other', tag: '1', layers: [90_000] })
    const otherHex = other.layers[0]!.digest.slice('sha256:'.length)
    const path = (of: string): string => join(blobs, of.slice(0, 2), of, 'data')
    await run('cp', [path(otherHex), path(hex)], { signal: quiet })
    await assert.rejects(pull(`${registry}/lab/bad:1`), (error) => isShoalError(error, 'DIGEST_MISMATCH'))
    await writeFile(path(hex), 'no gzip at all')
    await assert.rejects(pull(`${registry}/lab/bad:1`))
    assert.deepEqual(await readdir(dir), [])
  })
})

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}
