import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { LAUNCHER, run, sleep, until } from '../lab/index.ts'
import { COUNTER, createMigrationLab, IMAGE, type MigrationLab, type MigrationNode } from './migration-lab.ts'
import { createMoves, LONG, type Moves } from './migration-moves.ts'
import { lacking } from './support.ts'

const missing = lacking('containerd', 'ctr', 'runc', 'criu', 'perl', 'redis-server', 'unshare')
const CUT_MS = 20_000
const API = 'http://127.0.0.1:5081/api/v1'
/** The copy is well once the test has put this file there. */
const HELD = ['--health', 'exec:/bin/busybox test -e /well']

describe('a migration in which something fails', { skip: missing }, () => {
  let lab: MigrationLab
  let moves: Moves
  let a: MigrationNode
  let b: MigrationNode
  let c: MigrationNode
  let d: MigrationNode
  before(async () => {
    lab = await createMigrationLab({ hosts: 4 })
    ;[a, b, c, d] = lab.nodes as [MigrationNode, MigrationNode, MigrationNode, MigrationNode]
    moves = createMoves(lab)
  })
  after(() => lab?.destroy())

  const start = (): Promise<string> => moves.start(a)
  const count = (name: string): Promise<number> => moves.count(a, name)
  const begin = (name: string, ...more: string[]): ReturnType<Moves['begin']> =>
    moves.begin(name, a, b, ...more)
  const settled = (name: string, before: number): ReturnType<Moves['settled']> =>
    moves.settled(name, a, b, before)
  const isWell = async (node: MigrationNode, name: string): Promise<void> =>
    writeFileSync(`/proc/${await lab.pidOn(node, name)}/root/well`, '')

  /** Two whose nodes are out of reach after handing over: of one the copy runs, of the other it was never started. */
  let cutOff: { name: string; counted: number }[] = []

  test('nodes are cut off for good after they handed over', async () => {
    const runs = await moves.start(c)
    const waits = await moves.start(d)
    const restored = d.phase('restored').reached
    void moves.begin(runs, c, d, ...HELD)
    await restored
    await c.host.cutLan()
    await isWell(d, runs)
    const frozen = d.phase('freezing').reached
    void moves.begin(waits, d, a)
    await frozen
    await d.host.cutLan()
    cutOff = await Promise.all(
      [runs, waits].map(async (name) => ({ name, counted: await moves.count(d, name) })),
    )
  })

  for (const phase of ['copying', 'freezing', 'handed-over']) {
    test(`the source's daemon is killed while it is ${phase}`, async () => {
      const name = await start()
      const before = await count(name)
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
    const before = await count(name)
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
    const before = await count(name)
    const { reached } = b.phase('starting')
    const moving = begin(name)
    await reached
    await b.killContainerd()
    await sleep(500)
    await b.restartContainerd()
    await moving
    await settled(name, before)
  })

  test('called off by a person before the freeze; after it that is too late', async () => {
    const name = await start()
    const before = await count(name)
    const cancel = async (): Promise<{ state?: string; detail?: string }> => {
      const all = await a.migrations()
      const id = all.findLast(({ container }) => container.name === name)?.id
      const { stdout } = await a.host.exec(['curl', '-s', '-X', 'POST', `${API}/migrations/${id}/cancel`])
      return JSON.parse(stdout)
    }
    const copying = a.phase('copying').reached
    const calledOff = begin(name)
    await copying
    await cancel()
    assert.match((await calledOff).stderr, /was called off, and the container runs here untouched/)
    assert.deepEqual(
      (await a.migrations()).filter(({ container }) => container.name === name).map(({ state }) => state),
      ['called-off'],
    )
    await until(
      'nothing is left at the target',
      async () => !(await b.containerd.ctr(['containers', 'ls', '-q'])).stdout.split('\n').includes(name),
      LONG,
    )
    assert.ok((await count(name)) > before)
    const restored = b.phase('restored').reached
    const moving = begin(name, ...HELD)
    await restored
    assert.match((await cancel()).detail ?? '', /too late to call it off: the container is frozen already/)
    await isWell(b, name)
    assert.equal((await moving).code, 0)
    await settled(name, before)
  })

  test('the copy is not healthy', async () => {
    const name = await start()
    const before = await count(name)
    const { code, stderr } = await begin(name, '--health', 'exec:/bin/busybox test -e /nowhere')
    assert.equal(code, 1)
    assert.match(stderr, /was taken back.*not healthy.*test|\/bin\/busybox/)
    const { on, source } = await settled(name, before)
    assert.deepEqual([on, source.state], [a, 'rolled-back'])
  })

  test("the target's disk is full, from the beginning or in the middle", async () => {
    const name = await start()
    const before = await count(name)
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

  test('what cannot be moved is refused untouched', async (t) => {
    const refused = async (name: string, why: RegExp): Promise<void> => {
      const pid = await lab.pidOn(a, name)
      const { code, stderr } = await begin(name)
      assert.equal(code, 1)
      assert.match(stderr, /was refused, and the container runs here untouched/)
      assert.match(stderr, why)
      assert.equal(await lab.pidOn(a, name), pid)
      assert.equal(await lab.pidOn(b, name), undefined)
    }

    await t.test('no base image', async () => {
      await a.containerd.ctr(['images', 'tag', IMAGE, 'docker.io/lab/gone:1'])
      const gone = await moves.start(a, { image: 'docker.io/lab/gone:1' })
      await refused(gone, /base image: .*lab\/gone/)
    })

    await t.test('a namespace of the host', async () => {
      const host = ['--net-host', '--null-io', '-d', '--cgroup', `/${lab.lab.name}/host`]
      await a.containerd.ctr(['run', ...host, IMAGE, 'host', '/bin/busybox', 'sleep', '1000'])
      await refused('host', /it uses the host's network namespace/)
    })

    await t.test('io_uring in use', async () => {
      const [perl = '', flag = '', counter = ''] = COUNTER(1)
      // io_uring_setup with four entries, on all processors the same number.
      const ring = 'my $p = "\\0" x 120; syscall(425, 4, $p) >= 0 or die "io_uring: $!";'
      const name = await moves.start(a, { args: [perl, flag, `${ring} ${counter}`] })
      await refused(name, /io_uring/)
    })

    await t.test('a processor that lacks something, the source of a mount that is not there', async () => {
      const lacked = process.arch === 'arm64' ? 'aes' : 'popcnt'
      const cpuinfo = join(lab.lab.dir, 'cpuinfo')
      writeFileSync(
        cpuinfo,
        readFileSync('/proc/cpuinfo', 'utf8').replaceAll(new RegExp(` ${lacked}\\b`, 'g'), ''),
      )
      const mount = join(lab.lab.dir, 'only/here')
      mkdirSync(mount, { recursive: true })
      // What another machine would say of itself, in mounts of the daemon's own.
      const script = `mount --bind "$0" /proc/cpuinfo && mount -t tmpfs tmpfs "$1" && shift && exec "$@"`
      const inMounts = ['unshare', '--mount', 'sh', '-c', script, cpuinfo, join(lab.lab.dir, 'only')]
      await b.kill()
      await b.restart({ command: [...inMounts, LAUNCHER, 'serve'] })
      await refused(await start(), new RegExp(`processor here lacks ${lacked}, which`))
      const mounted = await moves.start(a, { mount })
      await refused(mounted, new RegExp(`the source of a mount ${mount} is not here`))
    })

    await t.test('no CRIU', async () => {
      // The same programs, but for one.
      const bin = join(lab.lab.dir, 'bin')
      mkdirSync(bin)
      const programs = ['runc', 'ctr', 'node', 'sh', 'env', 'dirname', 'readlink', 'nsenter', 'mount']
      for (const program of programs) {
        const path = execFileSync('sh', ['-c', `command -v ${program} || true`], { encoding: 'utf8' }).trim()
        if (path !== '') symlinkSync(path, join(bin, program))
      }
      await b.kill()
      await b.restart({ env: { PATH: bin } })
      const name = await start()
      const before = await count(name)
      await refused(name, /criu is not installed/)
      await settled(name, before)
      await b.kill()
      await b.restart()
    })
  })

  test('a person decides what the nodes cannot find out, by the command in the record', async () => {
    const [runs, waits] = cutOff
    assert.ok(runs && waits)
    /** What the node's record says to run, for the side that is meant. */
    const command = async (on: MigrationNode, name: string, side: string): Promise<string[]> => {
      const record = await until(
        `${name} is undecided`,
        async () =>
          (await on.migrations()).find(
            ({ container, state }) => container.name === name && state === 'undecided',
          ),
        { timeoutMs: 180_000, everyMs: 500 },
      )
      const said = new RegExp(`shoal (migrations decide ${record.id} ${side})`).exec(record.reason ?? '')?.[1]
      assert.ok(said, record.reason)
      return said.split(' ')
    }
    const decide = async (on: MigrationNode, name: string, side: string): Promise<void> => {
      const { code, stderr } = await on.shoal.cli(await command(on, name, side))
      assert.equal(code, 0, stderr)
    }
    // The person looks at the targets, as the records say: one runs there, one does not.
    assert.ok((await moves.count(d, runs.name)) > runs.counted)
    assert.equal(await lab.pidOn(a, waits.name), undefined)
    // On either end, as neither hears of the other's.
    await decide(d, runs.name, 'target')
    await decide(c, runs.name, 'target')
    await decide(d, waits.name, 'source')
    assert.equal(await lab.pidOn(c, runs.name), undefined)
    assert.equal(await lab.pidOn(a, waits.name), undefined)
    await until('it counts on', async () => (await moves.count(d, waits.name)) > waits.counted, LONG)
    for (const node of [c, d]) await node.host.restoreLan()
    const names = cutOff.map(({ name }) => name)
    await until(
      'the other ends have heard of it',
      async () => {
        const all = (await Promise.all([a, c, d].map((node) => node.migrations()))).flat()
        return all
          .filter(({ container }) => names.includes(container.name))
          .every(({ endedAt }) => endedAt !== undefined)
      },
      LONG,
    )
    assert.equal((await moves.settled(runs.name, c, d, runs.counted)).on, d)
    const { on, source } = await moves.settled(waits.name, d, a, waits.counted)
    assert.deepEqual([on, source.state], [d, 'rolled-back'])
  })

  test('the network is cut for 20 s, at each phase', { concurrency: 2 }, async (t) => {
    const pairs: [MigrationNode, MigrationNode][] = [
      [a, b],
      [c, d],
    ]
    const phases: [what: string, of: 'source' | 'target', phase: string][] = [
      ['pre-copy', 'source', 'copying'],
      ['the frozen round', 'source', 'freezing'],
      ['the start', 'source', 'handed-over'],
      ['the restore', 'target', 'starting'],
      ['the health check', 'target', 'restored'],
      ['the commit', 'source', 'committing'],
    ]
    const cases = phases.map(([what, of, phase]) =>
      t.test(what, async () => {
        const pair = pairs.pop()
        assert.ok(pair)
        const [from, to] = pair
        const name = await moves.start(from)
        const before = await moves.count(from, name)
        const { reached } = (of === 'source' ? from : to).phase(phase)
        const moving = moves.begin(name, from, to, ...(phase === 'restored' ? HELD : []))
        await reached
        await from.host.cutLan()
        if (phase === 'restored') await isWell(to, name)
        await sleep(CUT_MS)
        await from.host.restoreLan()
        await moving
        await moves.settled(name, from, to, before)
        pairs.push(pair)
      }),
    )
    await Promise.all(cases)
  })
})
