import assert from 'node:assert/strict'
import { copyFileSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { isShoalError, silentLog } from '../../base/index.ts'
import type { Migration } from '../../integration/index.ts'
import { createRuntimes, type Runtime, type Runtimes } from '../../integration/runtime/index.ts'
import { type ContractKit, testRuntimeContract } from '../integration/runtime-contract.ts'
import { createLab, type Dockerd, type Lab, run, type Site, startSite, until } from '../lab/index.ts'
import { explained, lacking } from './support.ts'

const IMAGE = 'docker.io/lab/app:1'
const WAIT = { timeoutMs: 60_000, everyMs: 50 }
/** Counts in /state, with the hash of a MiB of random memory, and leaves a file in the writable layer. */
const COUNTER = `
busybox() { /bin/busybox "$@"; }
echo mine > /file
M=$(busybox head -c 1000000 /dev/urandom | busybox base64)
i=0
while :; do
  i=$((i+1))
  echo $i $(echo "$M" | busybox md5sum) > /state.new
  busybox mv /state.new /state
  busybox usleep 50000
done`

/** Two hosts with a dockerd and a Shoal each; what moves goes from one to the other, whose Shoal the image comes through. */
describe('docker and runc between two hosts', {
  skip: lacking('containerd', 'dockerd', 'docker', 'runc', 'criu'),
}, () => {
  const signal = AbortSignal.timeout(10 * 60_000)
  let lab: Lab
  let site: Site
  let dockerds: Dockerd[]
  let runtimes: Runtimes[]
  let kit: ContractKit
  const runcRoot = (host: number): string => join(lab.dir, `runc-${host}`)

  before(async () => {
    lab = await createLab({ hosts: 2 })
    await lab.push([{ name: 'lab/app', tag: '1', layers: [1000], runnable: true }])
    const mirrors = ['http://127.0.0.1:5080']
    dockerds = await Promise.all(
      lab.hosts.map((host) => host.dockerd({ flags: ['--experimental'], mirrors })),
    )
    site = await startSite(lab, (i) => ({
      flags: ['--docker', dockerds[i]!.socket, '--runc', runcRoot(i)],
    }))
    await dockerds[0]!.docker(['pull', IMAGE])
    runtimes = dockerds.map((docker, i) =>
      createRuntimes({
        docker,
        registry: '127.0.0.1:5080',
        dir: join(lab.dir, `driver-${i}`),
        log: silentLog(),
      }),
    )
    const [source, target] = (await Promise.all(runtimes.map((one) => one.get('docker')))) as [
      Runtime,
      Runtime,
    ]
    kit = {
      source,
      target,
      image: IMAGE,
      async start({ name, script, shared }) {
        const volume = shared === undefined ? [] : ['--volume', `${shared}:/shared`]
        const flags = ['--detach', '--name', name, '--network', 'none', '--restart', 'always', ...volume]
        const { stdout } = await dockerds[0]!.docker([
          ...['run', ...flags, IMAGE],
          ...['/bin/busybox', 'sh', '-c', script],
        ])
        return stdout.trim()
      },
    }
  })
  after(async () => {
    for (const one of runtimes ?? []) await one.close()
    for (const host of [0, 1])
      for (const { id } of lab ? await runcList(host) : [])
        await run(['runc', '--root', runcRoot(host), 'delete', '--force', id], { mayFail: true })
    await lab?.destroy()
  })

  testRuntimeContract(() => kit, { joins: false })

  test('on the host’s network, with a restart policy: both are as they were, once it runs', async () => {
    const [source, target] = [kit.source, kit.target]
    const script =
      'i=0; while :; do i=$((i+1)); echo $i > /new; /bin/busybox mv /new /n; /bin/busybox usleep 50000; done'
    const flags = [
      '--detach',
      '--name',
      'hosted',
      '--network',
      'host',
      '--restart',
      'unless-stopped',
      '--rm=false',
    ]
    await dockerds[0]!.docker(['run', ...flags, '--memory', '64m', IMAGE, '/bin/busybox', 'sh', '-c', script])
    const { id } = await source.inspect('hosted', signal)
    await source.pause(id, signal)
    const dir = join(lab.dir, 'hosted-dump')
    mkdirSync(dir)
    await source.dump(id, { dir, leave: 'as-it-was' }, signal)
    const recreation = await source.describe(id, signal)
    assert.equal(recreation.image?.reference, IMAGE)
    assert.match(recreation.image?.digest ?? '', /^sha256:/)
    const prepared = await target.prepare({ name: 'hosted', recreation, image: IMAGE }, signal)
    const policy = async (which: Dockerd): Promise<string> => {
      const format = '{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.NetworkMode}} {{.HostConfig.Memory}}'
      return (await which.docker(['inspect', 'hosted', '--format', format])).stdout.trim()
    }
    assert.equal(await policy(dockerds[1]!), 'no host 67108864')
    await prepared.applyWritable(await source.writable(id, signal), signal)
    await source.remove(id, signal)
    const { pid } = await prepared.start(dir, signal)
    assert.equal(await policy(dockerds[1]!), 'unless-stopped host 67108864')
    assert.ok(
      (await dockerds[1]!.docker(['images', '--format', '{{.Repository}}:{{.Tag}}'])).stdout.includes(
        'lab/app:1',
      ),
    )
    // Of the daemon's host, which is a namespace here.
    const daemon = dockerds[1]!.service.pid
    assert.equal(statSync(`/proc/${pid}/ns/net`).ino, statSync(`/proc/${daemon}/ns/net`).ino)
    assert.equal(await target.remove(prepared.id, signal), true)
  })

  test('a restore that fails says why, in CRIU’s words', async () => {
    const [source, target] = [kit.source, kit.target]
    const id = await kit.start({ name: 'broken', script: 'while :; do /bin/busybox sleep 1; done' })
    const dir = join(lab.dir, 'broken-dump')
    mkdirSync(dir)
    await source.dump(id, { dir, leave: 'stopped' }, signal)
    const recreation = await source.describe(id, signal)
    const prepared = await target.prepare({ name: 'broken', recreation, image: IMAGE }, signal)
    await prepared.applyWritable(await source.writable(id, signal), signal)
    rmSync(join(dir, 'core-1.img'))
    for (let i = 0; i < 5; i++) {
      await assert.rejects(
        prepared.start(dir, signal),
        (error) => isShoalError(error, 'RUNTIME') && /empty-image|core-1/.test(error.message),
      )
    }
    assert.equal((await target.inspect(prepared.id, signal)).pid, undefined)
    await prepared.discard(signal)
    await source.remove(id, signal)
  })

  async function runcList(host: number): Promise<{ id: string; pid: number; status: string }[]> {
    const { stdout } = await run(['runc', '--root', runcRoot(host), 'list', '-f', 'json'], { mayFail: true })
    return JSON.parse(stdout || 'null') ?? []
  }

  const dockerPid = async (host: number, name: string): Promise<number> =>
    Number(
      (await dockerds[host]!.docker(['inspect', name, '--format', '{{.State.Pid}}'], { mayFail: true }))
        .stdout,
    )
  const runcPid = async (host: number, name: string): Promise<number> =>
    (await runcList(host)).find(({ id, status }) => id === name && status === 'running')?.pid ?? 0

  function state(pid: number): { count: number; hash: string; file: string } {
    const root = `/proc/${pid}/root`
    const [count, hash = ''] = readFileSync(`${root}/state`, 'utf8').split(' ')
    return { count: Number(count), hash, file: readFileSync(`${root}/file`, 'utf8') }
  }

  /** What it counts, once that is more. */
  async function counts(
    pidOf: () => Promise<number>,
    above: number,
  ): ReturnType<typeof until<ReturnType<typeof state>>> {
    return until(
      `it counts on from ${above}`,
      async () => {
        const pid = await pidOf()
        const found =
          pid > 0
            ? await Promise.resolve()
                .then(() => state(pid))
                .catch(() => undefined)
            : undefined
        return found && found.count > above ? found : undefined
      },
      WAIT,
    )
  }

  async function shoal(host: number, ...args: string[]): Promise<unknown> {
    return explained(
      () => site,
      async () => {
        const { code, stdout, stderr } = await site.nodes[host]!.cli([...args, '--json'])
        assert.equal(code, 0, `shoal ${args.join(' ')}: ${stderr}${stdout}`)
        return JSON.parse(stdout) as unknown
      },
    )
  }

  test('a container of docker’s moves to the docker of another host, under its name', async () => {
    const flags = ['--detach', '--network', 'none', '--name', 'counter']
    await dockerds[0]!.docker(['run', ...flags, IMAGE, '/bin/busybox', 'sh', '-c', COUNTER])
    const before = await counts(() => dockerPid(0, 'counter'), 5)
    const moved = (await shoal(
      0,
      'migrate',
      'counter',
      '--to',
      lab.hosts[1]!.name,
      '--runtime',
      'docker',
    )) as Migration
    assert.equal(moved.state, 'done')
    const there = await counts(() => dockerPid(1, 'counter'), before.count)
    assert.equal(there.hash, before.hash)
    assert.equal(there.file, 'mine\n')
    const left = await dockerds[0]!.docker(['ps', '--all', '--format', '{{.Names}}'])
    assert.ok(!left.stdout.split('\n').includes('counter'), left.stdout)
    const images = await dockerds[1]!.docker(['inspect', 'counter', '--format', '{{.Config.Image}}'])
    assert.equal(images.stdout.trim(), IMAGE)
  })

  test('a checkpoint of docker’s is restored on another host under another name', async () => {
    const last = await counts(() => dockerPid(1, 'counter'), 5)
    await shoal(1, 'checkpoint', 'create', 'counter', '--runtime', 'docker', '--leave-running')
    await counts(() => dockerPid(1, 'counter'), last.count)
    await shoal(0, 'restore', 'counter', '--name', 'again')
    const there = await counts(() => dockerPid(0, 'again'), last.count)
    assert.equal(there.hash, last.hash)
    assert.equal(there.file, 'mine\n')
    await dockerds[0]!.docker(['rm', '--force', 'again'])
    await dockerds[1]!.docker(['rm', '--force', 'counter'])
  })

  test('a plain bundle of runc’s moves with its root file system, there and back', async () => {
    const bundle = join(lab.dir, 'bundle')
    mkdirSync(join(bundle, 'rootfs/bin'), { recursive: true })
    copyFileSync('/bin/busybox', join(bundle, 'rootfs/bin/busybox'))
    await run(['runc', 'spec'], { cwd: bundle })
    const spec = JSON.parse(readFileSync(join(bundle, 'config.json'), 'utf8'))
    Object.assign(spec.process, { terminal: false, rlimits: [], args: ['/bin/busybox', 'sh', '-c', COUNTER] })
    spec.root.readonly = false
    spec.linux.cgroupsPath = `/${lab.name}/plain`
    writeFileSync(join(bundle, 'config.json'), JSON.stringify(spec))
    const start = 'exec runc --root "$0" run --detach --bundle "$1" plain </dev/null >/dev/null 2>&1'
    await run(['sh', '-c', start, runcRoot(0), bundle])
    let last = await counts(() => runcPid(0, 'plain'), 5)
    for (const [from, to] of [
      [0, 1],
      [1, 0],
    ] as const) {
      const moved = (await shoal(from, 'migrate', 'plain', '--to', lab.hosts[to]!.name)) as Migration
      assert.equal(moved.state, 'done')
      const there = await counts(() => runcPid(to, 'plain'), last.count)
      assert.equal(there.hash, last.hash)
      assert.equal(there.file, 'mine\n')
      assert.deepEqual(await runcList(from), [])
      last = there
    }
  })
})
