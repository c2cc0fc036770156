import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { isShoalError } from '../../../base/index.ts'
import { cgroupPlaces } from '../../../integration/runtime/cgroup.ts'
import { createRuncRuntime } from '../../../integration/runtime/runc/index.ts'
import { lacking } from '../../e2e/support.ts'
import { until } from '../../lab/index.ts'
import { quiet } from './layer-support.ts'
import { createRuncPlace, type RuncPlace } from './runc-support.ts'

const SLEEP = ['/bin/busybox', 'sleep', '100000']

describe('runc where things go wrong', { skip: lacking('runc', 'criu') }, () => {
  let place: RuncPlace
  let dumps = 0
  before(async () => {
    place = await createRuncPlace()
  })
  after(() => place?.close())

  const emptyDir = async (): Promise<string> => {
    const dir = join(place.dir, `dump-${++dumps}`)
    await mkdir(dir)
    return dir
  }
  const started = async (name: string, args = SLEEP): Promise<void> => {
    await place.start(name, await place.bundle(name, args))
  }

  test('a restore that is given up leaves no process', async () => {
    const { runtime } = place
    await started('given-up', ['/bin/busybox', 'sh', '-c', 'while :; do /bin/busybox usleep 1000; done'])
    const dir = await emptyDir()
    await runtime.dump('given-up', { dir, leave: 'as-it-was' }, quiet)
    const recreation = await runtime.describe('given-up', quiet)
    const layer = await runtime.writable('given-up', quiet)
    const prepared = await runtime.prepare({ name: 'moved', recreation, image: undefined }, quiet)
    await prepared.applyWritable(layer, quiet)
    const { linux } = (await runtime.inspect('moved', quiet)).spec
    const procs = join('/sys/fs/cgroup/pids', linux?.cgroupsPath ?? '', 'cgroup.procs')
    for (const ms of [5, 60, 150, 300]) {
      const stop = new AbortController()
      const timer = setTimeout(() => stop.abort(), ms)
      const result = await prepared.start(dir, stop.signal).catch((error: unknown) => error)
      clearTimeout(timer)
      if (result instanceof Error) {
        assert.ok(isShoalError(result, 'ABORTED'), String(result))
        assert.equal((await readFile(procs, 'utf8').catch(() => '')).trim(), '', `after ${ms} ms`)
        assert.equal((await runtime.inspect('moved', quiet)).state, 'created')
      } else {
        assert.equal((await runtime.inspect('moved', quiet)).state, 'running')
        break
      }
    }
    await runtime.remove('moved', quiet)
    await prepared.discard(quiet)
    const places = await cgroupPlaces(linux?.cgroupsPath ?? '')
    assert.deepEqual(places.filter(existsSync), [])
    await runtime.remove('given-up', quiet)
  })

  test('a restore that a killed daemon has left under way is ended by the next one', async () => {
    const { runtime } = place
    await started('left')
    const dir = await emptyDir()
    await runtime.dump('left', { dir, leave: 'as-it-was' }, quiet)
    const recreation = await runtime.describe('left', quiet)
    const prepared = await runtime.prepare({ name: 'left-moved', recreation, image: undefined }, quiet)
    await prepared.applyWritable(await runtime.writable('left', quiet), quiet)
    let over = false
    const first = prepared
      .start(dir, quiet)
      .catch((error: unknown) => error)
      .finally(() => {
        over = true
      })
    const bundle = join(place.dir, 'shoal/bundles/left-moved')
    await until('runc restores, or has', async () => {
      const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name))
      const lines = await Promise.all(
        pids.map((pid) => readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')),
      )
      return over || lines.some((line) => line.includes('restore') && line.includes(bundle))
    })
    const next = await place.again()
    // Either it was too late to end it, or nothing of it is left.
    const result = await first
    const { state, pid } = await next.inspect('left-moved', quiet)
    assert.equal(state, result instanceof Error ? 'created' : 'running')
    assert.equal(pid === undefined, result instanceof Error)
    await next.remove('left-moved', quiet)
    await next.remove('left', quiet)
  })

  test('images that are missing or cut short: CRIU says so', async () => {
    const { runtime } = place
    await started('cut')
    const dir = await emptyDir()
    await runtime.dump('cut', { dir, leave: 'as-it-was' }, quiet)
    const recreation = await runtime.describe('cut', quiet)
    const prepared = await runtime.prepare({ name: 'cut-moved', recreation, image: undefined }, quiet)
    await prepared.applyWritable(await runtime.writable('cut', quiet), quiet)
    await rm(join(dir, 'core-1.img'))
    await assert.rejects(
      prepared.start(dir, quiet),
      (error) => isShoalError(error, 'RUNTIME') && /empty-image|core-1/.test(error.message),
    )
    await runtime.remove('cut-moved', quiet)
    await runtime.remove('cut', quiet)
  })

  test('what cannot be dumped is told by CRIU, and runs on', async () => {
    const { runtime } = place
    // Its output goes to a file of the host's, which no other machine has.
    const bundle = await place.bundle('outside', SLEEP)
    await place.start('outside', bundle, join(bundle, 'output'))
    for (const leave of ['as-it-was', 'stopped'] as const)
      await assert.rejects(
        runtime.dump('outside', { dir: await emptyDir(), leave }, quiet),
        (error) => isShoalError(error, 'RUNTIME') && error.message.includes(join(bundle, 'output')),
      )
    assert.equal((await runtime.inspect('outside', quiet)).state, 'running')
    await runtime.remove('outside', quiet)
  })

  test('a terminal is refused, and so are programs to run on the host, and bad names', async () => {
    const { runtime } = place
    await started('plain')
    const recreation = await runtime.describe('plain', quiet)
    const prepare = (name: string, terminal = false) =>
      runtime.prepare(
        {
          name,
          recreation: {
            ...recreation,
            spec: { ...recreation.spec, process: { ...recreation.spec.process, terminal } },
          },
          image: undefined,
        },
        quiet,
      )
    await assert.rejects(prepare('good', true), (error) => isShoalError(error, 'UNFIT'))
    recreation.spec.hooks = { prestart: [{ path: '/bin/true' }] }
    await assert.rejects(prepare('good'), (error) => isShoalError(error, 'UNFIT'))
    delete recreation.spec.hooks
    for (const name of ['', '.', '..', '../x', 'a/b', '.hidden', 'x'.repeat(200)])
      await assert.rejects(prepare(name), (error) => isShoalError(error, 'NAME_INVALID'), name)
    await runtime.remove('plain', quiet)
  })

  test('of the CRIU configuration that it comes with only what is about connections counts', async () => {
    const { runtime } = place
    await started('configured')
    const conf = join(place.dir, 'criu.conf')
    await writeFile(conf, 'tcp-close\naction-script /bin/evil\nskip-in-flight\n')
    const recreation = await runtime.describe('configured', quiet)
    recreation.spec.annotations = { 'org.criu.config': conf }
    await runtime.pause('configured', quiet)
    const dir = await emptyDir()
    await runtime.dump('configured', { dir, leave: 'as-it-was' }, quiet)
    const prepared = await runtime.prepare({ name: 'configured-2', recreation, image: undefined }, quiet)
    await prepared.applyWritable(await runtime.writable('configured', quiet), quiet)
    const own = (await runtime.inspect('configured-2', quiet)).spec.annotations?.['org.criu.config'] ?? ''
    assert.equal(await readFile(own, 'utf8'), 'manage-cgroups ignore\ntcp-close\nskip-in-flight\n')
    await prepared.start(dir, quiet)
    for (const id of ['configured', 'configured-2']) assert.equal(await runtime.remove(id, quiet), true)
  })

  test('what podman manages is left to it', async () => {
    const { runtime } = place
    const bundle = await place.bundle('managed', SLEEP, (spec) => {
      spec.annotations = { 'io.container.manager': 'libpod' }
    })
    await place.start('managed', bundle)
    assert.ok(!(await runtime.list(quiet)).some(({ id }) => id === 'managed'))
    await assert.rejects(
      runtime.inspect('managed', quiet),
      (error) => isShoalError(error, 'NOT_FOUND') && error.message.includes('libpod'),
    )
    await runtime.remove('managed', quiet)
  })

  test('one that has ended by itself is stopped, and its layer is still there', async () => {
    const { runtime } = place
    await started('ended', ['/bin/busybox', 'touch', '/here'])
    await until('it has ended', async () => (await runtime.inspect('ended', quiet)).state === 'stopped')
    assert.equal((await runtime.inspect('ended', quiet)).pid, undefined)
    const parts: Buffer[] = []
    for await (const part of await runtime.writable('ended', quiet)) parts.push(part as Buffer)
    assert.ok(Buffer.concat(parts).includes('here'))
    await assert.rejects(
      runtime.dump('ended', { dir: await emptyDir(), leave: 'as-it-was' }, quiet),
      (error) => isShoalError(error, 'RUNTIME'),
    )
    assert.equal(await runtime.remove('ended', quiet), true)
  })
})

describe('what runc and CRIU lack is said', () => {
  const versions: Record<string, string> = {
    'runc-without': 'case "$*" in *version*) echo "runc version 0.1";; *) echo "no such command";; esac',
    'criu-broken':
      'echo "Version: 3.17"; case "$*" in *check*) echo "Error: kernel is too new" >&2; exit 1;; esac',
    'criu-fine': 'echo "Version: 4.2.1"',
  }
  let dir: string
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'shoal-facts-'))
    for (const [name, script] of Object.entries(versions)) {
      await writeFile(join(dir, name), `#!/bin/sh\n${script}\n`)
      await chmod(join(dir, name), 0o755)
    }
  })
  after(() => rm(dir, { recursive: true, force: true }))

  const factsOf = async (command: string, criu: string) => {
    const options = { root: join(dir, 'state'), command: join(dir, command), criu: join(dir, criu) }
    const runtime = await createRuncRuntime({ ...options, registry: '127.0.0.1:1', dir: join(dir, 'shoal') })
    return runtime.facts(quiet)
  }

  for (const [what, runc, criu, why] of [
    ['no runc', 'none', 'criu-fine', /none is not installed/],
    ['a runc without checkpoints', 'runc-without', 'criu-fine', /no checkpoint command/],
    ['no CRIU', 'runc-without', 'none', /none is not installed/],
    ['a CRIU that does not work here', 'runc-without', 'criu-broken', /kernel is too new/],
  ] as const) {
    test(what, async () => {
      const facts = await factsOf(runc, criu)
      assert.equal(facts.can.checkpoint, false)
      assert.equal(facts.can.restore, false)
      assert.ok(
        facts.why.some((each) => why.test(each)),
        facts.why.join('; '),
      )
    })
  }

  test('a tar that is another one', async () => {
    const path = process.env.PATH
    await writeFile(join(dir, 'tar'), '#!/bin/sh\necho "tar (busybox) 1.36"\n')
    await chmod(join(dir, 'tar'), 0o755)
    process.env.PATH = `${dir}:${path}`
    try {
      const { why } = await factsOf('runc-without', 'criu-fine')
      assert.ok(
        why.some((each) => /not GNU tar/.test(each)),
        why.join('; '),
      )
    } finally {
      process.env.PATH = path
    }
  })

  test('nothing is left over', async () => {
    assert.deepEqual(await readdir(join(dir, 'shoal/tmp')).catch(() => []), [])
  })
})
