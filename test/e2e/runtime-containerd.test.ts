import assert from 'node:assert/strict'
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  writeFileSync,
} from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { isShoalError, silentLog } from '../../base/index.ts'
import { containerdChanges } from '../../integration/index.ts'
import {
  type ContainerdClient,
  connectContainerd,
  createContainer,
  startContainer,
  waitContainer,
} from '../../integration/runtime/containerd/index.ts'
import { createRuntimes, type Runtime, type Runtimes } from '../../integration/runtime/index.ts'
import { type ContractKit, testRuntimeContract } from '../integration/runtime-contract.ts'
import { type Containerd, createLab, type Lab, sleep, until } from '../lab/index.ts'
import { lacking } from './support.ts'

const IMAGE = 'docker.io/lab/app:1'

describe('the containerd driver', { skip: lacking('containerd', 'ctr', 'runc', 'criu') }, () => {
  const signal = AbortSignal.timeout(10 * 60_000)
  let lab: Lab
  let containerds: Containerd[]
  let client: ContainerdClient
  let runtimes: Runtimes[]
  let kit: ContractKit
  const path = process.env.PATH

  before(async () => {
    lab = await createLab({ hosts: 2 })
    await lab.push([
      { name: 'lab/app', tag: '1', layers: [1000], platforms: ['linux/s390x'], runnable: true },
    ])
    containerds = await Promise.all(lab.hosts.map((host) => host.containerd()))
    containerds[0]!.mirror('docker.io', [lab.cloud.registry])
    await containerds[0]!.pull(IMAGE)
    await lab.hosts[1]!.shoal({ flags: ['--tag-ttl', '0s'] })
    // The drivers live in this process, outside of the lab: what they call must be inside.
    const bin = join(lab.dir, 'bin')
    mkdirSync(bin)
    writeFileSync(
      join(bin, 'ctr'),
      `#!/bin/sh\nexec nsenter --net=/run/netns/${lab.hosts[1]!.netns} /usr/bin/ctr "$@"\n`,
    )
    chmodSync(join(bin, 'ctr'), 0o755)
    process.env.PATH = `${bin}:${path}`
    client = connectContainerd(containerds[0]!)
    runtimes = containerds.map((containerd, i) =>
      createRuntimes({
        containerd,
        registry: '127.0.0.1:5080',
        dir: join(lab.dir, `driver-${i}`),
        log: silentLog(),
      }),
    )
    const [source, target] = (await Promise.all(runtimes.map((one) => one.get('containerd')))) as [
      Runtime,
      Runtime,
    ]
    kit = {
      source,
      target,
      image: IMAGE,
      async start({ name, script, shared, netns }) {
        await createContainer({
          client,
          image: IMAGE,
          id: name,
          args: ['/bin/busybox', 'sh', '-c', script],
          cgroupParent: `/${lab.name}`,
          ...(netns === undefined ? {} : { netns }),
          ...(shared === undefined
            ? {}
            : { mounts: [{ source: shared, destination: '/shared', readonly: false }] }),
          signal,
        })
        await startContainer({ client, id: name, log: join(lab.dir, `${name}.log`), signal })
        return name
      },
    }
  })
  /** A containerd that has ended, or is ended, is started again over the same directories. */
  async function restart(host: number): Promise<void> {
    containerds[host]!.service.kill('SIGKILL')
    await containerds[host]!.service.ended
    containerds[host] = await lab.hosts[host]!.containerd()
  }

  /** A dump whose CRIU is stopped in its midst. */
  async function haltedDump(
    runtime: Runtime,
    id: string,
    leave: 'as-it-was' | 'stopped' = 'as-it-was',
    heeded = signal,
  ): Promise<{ criu: number; ended: Promise<void> }> {
    for (;;) {
      const dir = mkdtempSync(join(lab.dir, 'halted-'))
      let over = false
      const ended = runtime.dump(id, { dir, leave }, heeded)
      const settled = ended.then(
        () => (over = true),
        () => (over = true),
      )
      // Between two looks it may have come and gone.
      while (!over) {
        const criu = criuOf(dir)
        if (criu !== undefined) {
          process.kill(criu, 'SIGSTOP')
          if (!over) return { criu, ended }
        }
        await sleep(1)
      }
      await settled
    }
  }

  /** CRIU has the directory open that its images go to. */
  function criuOf(dir: string): number | undefined {
    for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
      try {
        if (readFileSync(`/proc/${pid}/comm`, 'utf8') !== 'criu\n') continue
        const files = readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`))
        if (files.includes(dir)) return Number(pid)
      } catch {} // It has ended.
    }
    return undefined
  }

  after(async () => {
    process.env.PATH = path
    client?.close()
    for (const one of runtimes ?? []) await one.close()
    await lab?.destroy()
  })

  testRuntimeContract(() => kit)

  test('what comes and goes is told, also when containerd was away', async () => {
    const { address, ctr } = containerds[0]!
    let told = 0
    const source = containerdChanges({ address, log: silentLog(), retryMs: 200 })({
      changed: () => told++,
      discards: () => assert.fail('it discards nothing'),
    })
    const tells = async (what: string, act: () => Promise<unknown>): Promise<void> => {
      const before = told
      await act()
      await until(`${what} is told`, () => told > before, { timeoutMs: 60_000 })
    }
    try {
      await until('it listens', () => told > 0, { timeoutMs: 60_000 })
      // The first word is that something may have changed before; what follows must be events.
      await until('events come', async () => {
        const before = told
        await ctr(['images', 'tag', '--force', IMAGE, 'docker.io/lab/app:2'])
        await sleep(100)
        return told > before
      })
      await tells('a removed image', () => ctr(['images', 'rm', 'docker.io/lab/app:2']))
      await tells('a new containerd', () => restart(0))
      await until('events come again', async () => {
        const before = told
        await ctr(['images', 'tag', '--force', IMAGE, 'docker.io/lab/app:2'])
        await sleep(100)
        return told > before
      })
    } finally {
      await source.close()
    }
    assert.ok(told < 200)
  })

  test('containerd is killed in the midst of a dump: that is said, and when it is back all goes on', async () => {
    const { source } = kit
    const id = await kit.start({ name: 'survivor', script: 'i=0; while :; do i=$((i+1)); done' })
    const dumping = await haltedDump(source, id)
    containerds[0]!.service.kill('SIGKILL')
    const gone = (error: Error) => isShoalError(error, 'RUNTIME') && /does not answer/.test(error.message)
    await assert.rejects(dumping.ended, gone)
    process.kill(dumping.criu, 'SIGCONT')
    await assert.rejects(source.list(signal), { code: 'RUNTIME' })
    await restart(0)
    await until('it runs', async () => (await source.inspect(id, signal)).state === 'running', {
      timeoutMs: 60_000,
    })
    const again = join(lab.dir, 'survivor-again')
    await until(
      'it can be dumped again',
      async () => {
        mkdirSync(again, { recursive: true })
        return source.dump(id, { dir: again, leave: 'stopped' }, signal).then(
          () => true,
          () => rm(again, { recursive: true, force: true }).then(() => false),
        )
      },
      { timeoutMs: 60_000 },
    )
    assert.equal((await source.inspect(id, signal)).state, 'stopped')
    assert.equal(await source.remove(id, signal), true)
  })

  test('a dump whose signal comes in its midst is not cut short: what became of the container is known', async () => {
    const { source } = kit
    const id = await kit.start({ name: 'asked', script: 'while :; do /bin/busybox usleep 10000; done' })
    const giveUp = new AbortController()
    const dumping = await haltedDump(source, id, 'as-it-was', giveUp.signal)
    giveUp.abort()
    process.kill(dumping.criu, 'SIGCONT')
    await dumping.ended
    assert.equal((await source.inspect(id, signal)).state, 'running')
    assert.equal(await source.remove(id, signal), true)
  })

  test('a shim that hangs holds up nobody whose signal comes, and what it was told is done later', async () => {
    const { source } = kit
    const id = await kit.start({ name: 'hanging', script: 'while :; do /bin/busybox usleep 10000; done' })
    const { pid } = await source.inspect(id, signal)
    const shim = Number(/^PPid:\s*(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1])
    process.kill(shim, 'SIGSTOP')
    try {
      const calls: ((signal: AbortSignal) => Promise<unknown>)[] = [
        (soon) => source.pause(id, soon),
        (soon) => source.exec(id, ['/bin/busybox', 'true'], { timeoutMs: 60_000, signal: soon }),
        (soon) => source.remove(id, soon),
        (soon) => waitContainer(client, id, soon),
      ]
      for (const call of calls) {
        await assert.rejects(call(AbortSignal.timeout(300)), { code: 'ABORTED' })
      }
      const late = source.exec(id, ['/bin/busybox', 'true'], { timeoutMs: 500, signal })
      await assert.rejects(late, { code: 'TIMEOUT' })
    } finally {
      process.kill(shim, 'SIGCONT')
    }
    await until('it is removed', () => source.remove(id, signal).catch(() => false), { timeoutMs: 60_000 })
    await assert.rejects(source.inspect(id, signal), { code: 'NOT_FOUND' })
  })

  test('an image whose tag has another digest by now is pulled by its digest', async () => {
    const { source, target } = kit
    const id = await kit.start({ name: 'pinned', script: '/bin/busybox sleep 1000' })
    const recreation = await source.describe(id, signal)
    const digest = recreation.image?.digest
    await containerds[1]!.ctr(['images', 'rm', '--sync', IMAGE], { mayFail: true })
    await lab.push([{ name: 'lab/app', tag: '1', layers: [2000], seed: 'newer', runnable: true }])
    const prepared = await target.prepare({ name: 'pinned', recreation, image: IMAGE }, signal)
    assert.deepEqual((await target.inspect('pinned', signal)).image, {
      reference: `docker.io/lab/app@${digest}`,
      digest,
    })
    await prepared.discard(signal)
    const unknown = `sha256:${'0'.repeat(64)}` as const
    const other = { ...recreation, image: { reference: IMAGE, digest: unknown } }
    await assert.rejects(target.prepare({ name: 'pinned', recreation: other, image: IMAGE }, signal), {
      code: 'RUNTIME',
    })
    await assert.rejects(target.inspect('pinned', signal), { code: 'NOT_FOUND' })
    await source.remove(id, signal)
  })
})
