import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdirSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import type { Migration } from '../../integration/index.ts'
import { run, sleep, until } from '../lab/index.ts'
import { COUNTER, createMigrationLab, IMAGE, type MigrationLab, type MigrationNode } from './migration-lab.ts'
import { lacking } from './support.ts'

const LONG = { timeoutMs: 120_000, everyMs: 50 }
const missing = lacking('containerd', 'ctr', 'runc', 'criu', 'perl', 'redis-server', 'unshare')

describe('a migration in which something fails', { skip: missing }, () => {
  let lab: MigrationLab
  let a: MigrationNode
  let b: MigrationNode
  let names = 0
  before(async () => {
    lab = await createMigrationLab()
    ;[a, b] = lab.nodes as [MigrationNode, MigrationNode]
  })
  after(() => lab?.destroy())

  const count = async (node: MigrationNode, name: string): Promise<number> =>
    Number(await lab.read(node, name, '/count').catch(() => '0'))

  async function start(image = IMAGE): Promise<string> {
    const name = `count${++names}`
    await lab.start(a, name, COUNTER(8), { image })
    await until('it counts', async () => (await count(a, name)) > 5, LONG)
    return name
  }

  /** Begins to move it; what the command says is not of interest, as its daemon may die. */
  function begin(name: string, ...more: string[]): Promise<{ code: number; stderr: string }> {
    return a.shoal.cli(['migrate', name, '--to', b.name, ...more]).catch(() => ({ code: -1, stderr: '' }))
  }

  /** Until nobody has anything left to do: then one copy runs, and what both ends have written down fits. */
  async function settled(name: string, before: number): Promise<{ on: MigrationNode; source: Migration }> {
    try {
      const ends = await until(
        'both ends have ended it',
        async () => {
          const all = (await Promise.all([a.migrations(), b.migrations()])).flat()
          const own = all.filter(({ container }) => container.name === name)
          return own.length > 0 && own.every(({ state }) => state !== 'running') ? own : undefined
        },
        LONG,
      )
      const source = ends.find(({ role }) => role === 'source')
      assert.ok(source)
      const pids = await Promise.all([lab.pidOn(a, name), lab.pidOn(b, name)])
      assert.equal(pids.filter((pid) => pid !== undefined).length, 1, JSON.stringify(ends))
      const on = pids[0] === undefined ? b : a
      assert.equal(source.state === 'done', on === b, JSON.stringify(ends))
      if (source.state !== 'done') assert.ok(source.reason)
      const counted = await count(on, name)
      assert.ok(counted >= before, `${counted} after ${before}`)
      await until('it counts on', async () => (await count(on, name)) > counted, LONG)
      assert.deepEqual((await lab.observer.seen()).doubles, [])
      await on.containerd.ctr(['tasks', 'kill', '-s', 'KILL', name])
      return { on, source }
    } catch (error) {
      process.stderr.write(`${lab.logs()}\n`)
      throw error
    }
  }

  for (const phase of ['copying', 'freezing', 'handed-over']) {
    test(`the source's daemon is killed while it is ${phase}`, async () => {
      const name = await start()
      const before = await count(a, name)
      const { reached } = a.phase(phase)
      const moving = begin(name)
      await reached
      await a.kill()
      await moving
      await a.restart()
      const { source } = await settled(name, before)
      if (phase !== 'handed-over') assert.notEqual(source.state, 'done')
    })
  }

  test("the target's daemon is killed while it starts the copy", async () => {
    const name = await start()
    const before = await count(a, name)
    const { reached } = b.phase('starting')
    const moving = begin(name)
    await reached
    await b.kill()
    await b.restart()
    await moving
    await settled(name, before)
  })

  test("the target's containerd is killed while it starts the copy", async () => {
    const name = await start()
    const before = await count(a, name)
    const { reached } = b.phase('starting')
    const moving = begin(name)
    await reached
    await b.killContainerd()
    await sleep(500)
    await b.restartContainerd()
    await moving
    await settled(name, before)
  })

  test('the network is cut for 20 s while the container is frozen', async () => {
    const name = await start()
    const before = await count(a, name)
    const { reached } = a.phase('handed-over')
    const moving = begin(name)
    await reached
    await a.host.cutLan()
    await sleep(20_000)
    await a.host.restoreLan()
    await moving
    await settled(name, before)
  })

  test('the copy is not healthy', async () => {
    const name = await start()
    const before = await count(a, name)
    const { code, stderr } = await begin(name, '--health', 'exec:/bin/busybox test -e /nowhere')
    assert.equal(code, 1)
    assert.match(stderr, /was taken back.*not healthy.*test|\/bin\/busybox/)
    const { on, source } = await settled(name, before)
    assert.deepEqual([on, source.state], [a, 'rolled-back'])
  })

  test("the target's disk is full, from the beginning or in the middle", async () => {
    const name = await start()
    const before = await count(a, name)
    const dir = join(b.shoal.dataDir, 'migrations')
    const mount = (size: string): Promise<unknown> =>
      run(['mount', '-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', dir])
    await mount('8m')
    const refused = await begin(name)
    assert.equal(refused.code, 1)
    assert.match(refused.stderr, /was refused.*the disk has 8\.00 MiB left/)
    await run(['umount', dir])
    await mount('200m')
    const { reached } = a.phase('copying')
    const moving = begin(name)
    await reached
    await run(['sh', '-c', 'head -c 400m /dev/zero > "$0"', join(dir, 'full')], { mayFail: true })
    await moving
    await settled(name, before)
    await run(['umount', '-l', dir])
  })

  test('what cannot be moved is refused untouched: no image, no CRIU, a namespace of the host', async () => {
    await a.containerd.ctr(['images', 'tag', IMAGE, 'docker.io/lab/gone:1'])
    const gone = await start('docker.io/lab/gone:1')
    const said = async (name: string): Promise<string> => {
      const { code, stderr } = await begin(name)
      assert.equal(code, 1)
      assert.match(stderr, /was refused, and the container runs here untouched/)
      return stderr
    }
    assert.match(await said(gone), /base image: .*lab\/gone/)

    const host = ['--net-host', '--null-io', '-d', '--cgroup', `/${lab.lab.name}/host`]
    await a.containerd.ctr(['run', ...host, IMAGE, 'host', '/bin/busybox', 'sleep', '1000'])
    assert.match(await said('host'), /it uses the host's network namespace/)

    // The same programs, but for one.
    const bin = join(lab.lab.dir, 'bin')
    mkdirSync(bin)
    for (const program of ['runc', 'ctr', 'node', 'sh', 'env', 'dirname', 'readlink', 'nsenter', 'mount']) {
      const path = execFileSync('sh', ['-c', `command -v ${program} || true`], { encoding: 'utf8' }).trim()
      if (path !== '') symlinkSync(path, join(bin, program))
    }
    await b.kill()
    await b.restart({ PATH: bin })
    const name = await start()
    const before = await count(a, name)
    assert.match(await said(name), /criu is not installed/)
    await settled(name, before)
    await b.kill()
    await b.restart()
  })
})
