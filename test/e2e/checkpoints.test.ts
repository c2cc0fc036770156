import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import type { CheckpointJob } from '../../cli/api/checkpoint-jobs.ts'
import type { Checkpoint } from '../../integration/index.ts'
import { type Containerd, createLab, type Lab, type Site, startSite, until } from '../lab/index.ts'
import { explained, lacking } from './support.ts'

const IMAGE = 'docker.io/lab/app:1'
const REGISTRY = '127.0.0.1:5080'
/** runc's state is the machine's, whichever lab a container is in. */
const MARK = randomBytes(3).toString('hex')
const COUNTING = `counter-${MARK}`
const BUNDLE = `bundle-${MARK}`
const WAIT = { timeoutMs: 60_000, everyMs: 100 }
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

describe('checkpoints between nodes', { skip: lacking('containerd', 'ctr', 'runc', 'criu') }, () => {
  let lab: Lab
  let site: Site
  let containerds: Containerd[]

  before(async () => {
    lab = await createLab({ hosts: 3, uplink: { rate: '200mbit', shared: true } })
    await lab.push([{ name: 'lab/app', tag: '1', layers: [1_000_000], runnable: true }])
    containerds = await Promise.all(lab.hosts.slice(0, 2).map((host) => host.containerd()))
    site = await startSite(lab, (i) => ({
      flags: [
        ...(containerds[i] ? ['--containerd', containerds[i].address] : []),
        ...(i > 0 ? ['--runc', runcRoot(i)] : []),
      ],
    }))
    for (const containerd of containerds) containerd.mirror('docker.io', [`http://${REGISTRY}`])
    await containerds[0]!.pull(IMAGE)
    const group = ['--cgroup', `${lab.name}/${COUNTING}`]
    const args = [IMAGE, COUNTING, '/bin/busybox', 'sh', '-c', COUNTER]
    await containerds[0]!.ctr(['run', '-d', '--null-io', '--env', 'PASSWORD=hush', ...group, ...args])
    await until('the counter counts', async () => (await state(0, COUNTING)).count > 3, WAIT)
  })
  after(async () => {
    for (const { ctr } of containerds ?? []) {
      const { stdout } = await ctr(['containers', 'ls', '-q'], { mayFail: true })
      for (const id of stdout.split('\n').filter((line) => line !== '')) {
        await ctr(['tasks', 'delete', '--force', id], { mayFail: true })
        await ctr(['containers', 'delete', id], { mayFail: true })
      }
    }
    for (const i of lab ? [1, 2] : []) {
      for (const id of [BUNDLE, `again-${BUNDLE}`]) await runc(i, 'delete', '--force', id).catch(() => {})
    }
    await lab?.destroy()
  })

  const runcRoot = (i: number): string => join(lab.dir, `runc-${i}`)
  async function runc(i: number, ...args: string[]): Promise<string> {
    const command = ['runc', '--root', runcRoot(i), ...args]
    return (await lab.hosts[i]!.exec(command)).stdout
  }

  async function pidOf(i: number, name: string): Promise<number> {
    const { stdout } = await containerds[i]!.ctr(['tasks', 'ls'])
    const [, pid] =
      stdout
        .split('\n')
        .find((line) => line.startsWith(`${name} `))
        ?.split(/\s+/) ?? []
    return Number(pid)
  }
  async function state(i: number, name: string): Promise<{ count: number; hash: string; file: string }> {
    const root = `/proc/${await pidOf(i, name)}/root`
    try {
      const [count, hash = ''] = readFileSync(`${root}/state`, 'utf8').split(' ')
      return { count: Number(count), hash, file: readFileSync(`${root}/file`, 'utf8') }
    } catch {
      return { count: 0, hash: '', file: '' }
    }
  }
  async function cli<T>(i: number, ...args: string[]): Promise<T> {
    const { code, stdout, stderr } = await site.nodes[i]!.cli([...args, '--json'])
    assert.equal(code, 0, stderr)
    return JSON.parse(stdout) as T
  }
  async function refused(i: number, code: string, ...args: string[]): Promise<string> {
    const answer = await site.nodes[i]!.cli([...args, '--json'])
    assert.equal(answer.code, 1, answer.stdout)
    const { error } = JSON.parse(answer.stderr.trim().split('\n').at(-1) ?? '') as {
      error: { code: string; message: string }
    }
    assert.equal(error.code, code, error.message)
    return error.message
  }
  const create = (name: string, ...more: string[]): Promise<CheckpointJob> =>
    cli(0, 'checkpoint', 'create', COUNTING, '--name', name, '--leave-running', ...more)
  const body = (testing: () => Promise<void>) => () => explained(() => site, testing)

  test(
    'restored on another node, with the uplink cut: it goes on from where it was',
    body(async () => {
      await create('counter')
      const made = await create('counter')
      assert.equal(made.checkpoint, 'counter:2')
      assert.ok(made.added! < made.size! / 3, `${made.added} of ${made.size}`)
      const source = await state(0, COUNTING)
      assert.ok(source.count > 3, 'the source goes on')
      await lab.cutUplink()
      await refused(1, 'NOT_FOUND', 'restore', 'counter:9')
      const { container } = await cli<CheckpointJob>(1, 'restore', 'counter', '--name', `again-${MARK}`)
      assert.ok(container)
      await until('the copy counts', async () => (await state(1, `again-${MARK}`)).count > 0, WAIT)
      const first = await state(1, `again-${MARK}`)
      assert.deepEqual([first.hash, first.file], [source.hash, 'mine\n'])
      assert.ok(first.count > 3, `${first.count}`)
      await until('it goes on', async () => (await state(1, `again-${MARK}`)).count > first.count + 5, WAIT)
      assert.match(
        await refused(1, 'UNFIT', 'restore', 'counter', '--name', `again-${MARK}`),
        /there is a container again-\w+ already/,
      )
      assert.match(await refused(2, 'UNFIT', 'restore', 'counter'), /there is no containerd here/)
    }),
  )

  test(
    'the artifact is for clients with the token, and ctr restores from it',
    body(async () => {
      const token = readFileSync(join(site.nodes[1]!.dataDir, 'api.token'), 'utf8').trim()
      const { digest, recipe } = await cli<Checkpoint>(1, 'checkpoint', 'inspect', 'counter:2')
      const curl = async (...args: string[]): Promise<string> =>
        (await site.hosts[1]!.exec(['curl', '-s', '-i', '--max-time', '20', ...args])).stdout
      const url = `http://${REGISTRY}/v2/checkpoints/counter`
      const closed = await curl(`${url}/manifests/2`)
      assert.match(closed, /^HTTP\/1\.1 401 [\s\S]*www-authenticate: basic realm/i)
      assert.match(await curl('-u', 'x:wrong', `${url}/manifests/2`), /^HTTP\/1\.1 401 /)
      const open = await curl('-H', `Authorization: Bearer ${token}`, `${url}/manifests/2`)
      assert.match(open, new RegExp(`^HTTP/1.1 200 [\\s\\S]*docker-content-digest: ${digest}`, 'i'))
      assert.match(await curl('-u', `x:${token}`, `${url}/tags/list`), /"tags":\["1","2"\]/)
      for (const other of ['docker.io/lab/app', 'local/app', 'checkpoints/counter']) {
        const answer = await curl('-u', `x:${token}`, `http://${REGISTRY}/v2/${other}/blobs/${recipe}`)
        assert.match(answer, /^HTTP\/1\.1 [45]\d\d /, other)
      }
      const reference = `${REGISTRY}/checkpoints/counter:2`
      const { ctr } = containerds[1]!
      await ctr(['content', 'fetch', '--plain-http', '--user', `x:${token}`, reference])
      await ctr(['containers', 'restore', '--rw', '--live', `by-ctr-${MARK}`, reference])
      await until('it goes on', async () => (await state(1, `by-ctr-${MARK}`)).count > 3, WAIT)
      const { hash, file } = await state(1, `by-ctr-${MARK}`)
      assert.deepEqual([hash, file], [(await state(0, COUNTING)).hash, 'mine\n'])
      await ctr(['tasks', 'kill', '--signal', 'SIGKILL', `by-ctr-${MARK}`])
    }),
  )

  test(
    'a sealed one opens only where it was meant to',
    body(async () => {
      await create('sealed', '--encrypt', site.hosts[1]!.name)
      const seen = await cli<{ demands?: object }>(2, 'checkpoint', 'inspect', 'sealed')
      assert.equal(seen.demands, undefined)
      const open = await site.nodes[2]!.cli(['checkpoint', 'inspect', 'counter:2', '--json'])
      assert.match(open.stdout, /"demands":/)
      assert.doesNotMatch(open.stdout, /hush/)
      assert.match(await refused(2, 'DENIED', 'restore', 'sealed'), /not sealed for this node/)
      assert.match(await refused(0, 'DENIED', 'restore', 'sealed'), /not sealed for this node/)
      await cli(1, 'restore', 'sealed', '--name', `opened-${MARK}`)
      await until('it goes on', async () => (await state(1, `opened-${MARK}`)).count > 3, WAIT)
    }),
  )

  test(
    'a plain runc bundle, which has no image: its whole root file system goes along',
    body(async () => {
      const bundle = join(lab.dir, 'bundle')
      mkdirSync(join(bundle, 'rootfs/bin'), { recursive: true })
      copyFileSync('/bin/busybox', join(bundle, 'rootfs/bin/busybox'))
      await runc(2, 'spec', '--bundle', bundle)
      const spec = JSON.parse(readFileSync(join(bundle, 'config.json'), 'utf8'))
      Object.assign(spec.process, { args: ['/bin/busybox', 'sh', '-c', COUNTER], terminal: false })
      spec.root.readonly = false
      spec.linux.cgroupsPath = `/${lab.name}/${BUNDLE}`
      writeFileSync(join(bundle, 'config.json'), JSON.stringify(spec))
      // CRIU dumps what its standard streams are: /dev/null is everywhere.
      const run = `exec runc --root ${runcRoot(2)} run --detach --bundle ${bundle} ${BUNDLE} <>/dev/null >&0 2>&0`
      await lab.hosts[2]!.exec(['sh', '-c', run])
      const counted = async (i: number, id: string): Promise<string[]> => {
        const { pid } = JSON.parse(await runc(i, 'state', id)) as { pid: number }
        try {
          return readFileSync(`/proc/${pid}/root/state`, 'utf8').trim().split(' ')
        } catch {
          return []
        }
      }
      await until('it counts', async () => Number((await counted(2, BUNDLE))[0]) > 3, WAIT)
      const [, hash] = await counted(2, BUNDLE)
      await cli(2, 'checkpoint', 'create', BUNDLE, '--runtime', 'runc')
      await assert.rejects(runc(2, 'state', BUNDLE), /does not exist/)
      await cli(1, 'restore', BUNDLE, '--runtime', 'runc', '--name', `again-${BUNDLE}`)
      const again = (): Promise<string[]> => counted(1, `again-${BUNDLE}`)
      await until('the copy counts', async () => Number((await again())[0]) > 3, WAIT)
      const [first] = await again()
      await until('it goes on', async () => Number((await again())[0]) > Number(first) + 3, WAIT)
      assert.equal((await again())[1], hash)
    }),
  )

  test(
    'kept fresh; when its node is gone, the last one is restored elsewhere',
    body(async () => {
      await cli(0, 'checkpoint', 'create', COUNTING, '--name', 'fresh', '--every', '1s', '--keep', '1')
      const list = async (): Promise<Checkpoint[]> =>
        (await cli<{ checkpoints: Checkpoint[] }>(1, 'checkpoint', 'ls')).checkpoints
      const fresh = async (): Promise<number[]> =>
        (await list()).filter(({ name }) => name === 'fresh').map(({ version }) => version)
      await until('a second was made and the first is gone', async () => ((await fresh())[0] ?? 0) > 1, WAIT)
      const before = await state(0, COUNTING)
      site.nodes[0]!.kill('SIGKILL')
      await containerds[0]!.ctr(['tasks', 'kill', '--signal', 'SIGKILL', COUNTING])
      const { container } = await cli<CheckpointJob>(1, 'restore', 'fresh', '--name', `survivor-${MARK}`)
      assert.ok(container)
      await until('it goes on', async () => (await state(1, `survivor-${MARK}`)).count > before.count, WAIT)
      assert.equal((await state(1, `survivor-${MARK}`)).hash, before.hash)
    }),
  )
})
