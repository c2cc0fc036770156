import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { after, afterEach, before, test } from 'node:test'
import { isShoalError, ShoalError } from '../../base/index.ts'
import type { Container, Prepared, Runtime } from '../../integration/runtime/index.ts'
import { until } from '../lab/index.ts'

/** What the contract needs of a driver's test. */
export interface ContractKit {
  /** Containers are started here, and moved to `target`: another daemon, or the same one where there is only one. */
  source: Runtime
  target: Runtime
  /** Reference under which `target` can have the base image. */
  image: string | undefined
  /** Starts a container of the lab's runnable image with `/bin/busybox sh -c SCRIPT`, and resolves with its full ID. */
  start(options: {
    name: string
    script: string
    /** Directory of the host that is to be at /shared. */
    shared?: string
    /** Path of its network namespace; without one it has an empty one. */
    netns?: string
  }): Promise<string>
}

/**
 * Counts at some 20 a second in /state, with the hash of 256 KiB of random memory, and leaves marks in the writable layer. Numbers
 * are written whole, by rename.
 */
const COUNTER = `
busybox() { /bin/busybox "$@"; }
busybox mkdir -p /data
echo mine > /data/file
busybox ln -s file /data/link
M=$(busybox head -c 256000 /dev/urandom | busybox base64)
i=0
while :; do
  i=$((i+1))
  echo $i $(echo "$M" | busybox md5sum) > /state.new
  busybox mv /state.new /state
  [ -d /shared ] && echo $i > /shared/count
  busybox usleep 50000
done`

const WAIT = { timeoutMs: 60_000, everyMs: 50 }

/**
 * Tests what `Runtime` promises. Call it within a `describe`; the kit is asked for when `before` hooks have run.
 * `joins`: false where the runtime joins no network namespace by its path.
 */
export function testRuntimeContract(kit: () => ContractKit, { joins = true } = {}): void {
  const signal = AbortSignal.timeout(10 * 60_000)
  let dir: string
  let made: { runtime: Runtime; id: string }[] = []
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'shoal-contract-'))
  })
  afterEach(async () => {
    const left = made
    made = []
    for (const { runtime, id } of left) await runtime.remove(id, signal)
  })
  after(() => rm(dir, { recursive: true, force: true }))

  const fresh = (what: string): string => {
    const path = join(dir, `${what}-${randomBytes(4).toString('hex')}`)
    mkdirSync(path)
    return path
  }
  const name = (what: string): string => `${what}-${randomBytes(4).toString('hex')}`

  async function start(options: { shared?: string; netns?: string; script?: string } = {}): Promise<string> {
    const id = await kit().start({ name: name('counter'), script: COUNTER, ...options })
    made.push({ runtime: kit().source, id })
    if (options.script === undefined) await count(kit().source, id)
    return id
  }

  /** The counter once there is one, and its memory's hash. */
  async function count(runtime: Runtime, id: string, above = 0): Promise<{ count: number; hash: string }> {
    return until(
      `${id} counts on from ${above}`,
      async () => {
        const read = ['/bin/busybox', 'cat', '/state']
        const { code, output } = await runtime.exec(id, read, { timeoutMs: 30_000, signal })
        const [counted = 0, hash = ''] = output.trim().split(' ')
        return code === 0 && Number(counted) > above ? { count: Number(counted), hash } : undefined
      },
      WAIT,
    )
  }

  async function prepare(id: string, options: { netns?: string } = {}): Promise<Prepared> {
    const { source, target, image } = kit()
    const recreation = await source.describe(id, signal)
    const prepared = await target.prepare(
      {
        // Another host has one of the same name.
        name: source === target ? name('moved') : recreation.name,
        // What it travels as.
        recreation: JSON.parse(JSON.stringify(recreation)),
        image,
        labels: { added: 'yes' },
        ...options,
      },
      signal,
    )
    made.push({ runtime: target, id: prepared.id })
    return prepared
  }

  const state = async (runtime: Runtime, id: string): Promise<Container['state']> =>
    (await runtime.inspect(id, signal)).state

  test('what it is and can do', async () => {
    const facts = await kit().source.facts(signal)
    assert.equal(facts.name, kit().source.name)
    assert.deepEqual(facts.why, [])
    assert.deepEqual(facts.can, { checkpoint: true, restore: true, run: true })
    assert.match(facts.version, /^\d+\./)
    assert.equal(facts.oci.name, 'runc')
    assert.match(facts.criu ?? '', /^\d+\./)
  })

  test('a container is found by ID, prefix and name, and only where there is one', async () => {
    const { source } = kit()
    const id = await start()
    const found = await source.inspect(id, signal)
    assert.equal(found.id, id)
    assert.equal(found.runtime, source.name)
    assert.equal(found.state, 'running')
    assert.ok(existsSync(`/proc/${found.pid}`))
    assert.ok(found.spec.process?.args?.includes('-c'))
    assert.equal((await source.inspect(found.name, signal)).id, id)
    assert.equal((await source.inspect(id.slice(0, -2), signal)).id, id)
    assert.deepEqual((await source.list(signal)).filter((one) => one.id === id).length, 1)
    for (const other of ['nobody', '']) {
      await assert.rejects(source.inspect(other, signal), { code: 'NOT_FOUND' })
    }
  })

  test('a program runs in it, and is ended when it takes too long', async () => {
    const { source } = kit()
    const id = await start()
    const sh = (script: string, timeoutMs = 30_000) =>
      source.exec(id, ['/bin/busybox', 'sh', '-c', script], { timeoutMs, signal })
    assert.deepEqual(await sh('echo said; exit 7'), { code: 7, output: 'said\n' })
    for (let i = 0; i < 5; i++) assert.equal((await sh('echo wrong >&2')).output, 'wrong\n')
    const much = await sh('i=0; while [ $i -lt 5000 ]; do echo 0123456789abcdef $i; i=$((i+1)); done')
    assert.ok(much.output.length <= 64 * 1024 && much.output.length > 60 * 1024)
    assert.notEqual((await source.exec(id, ['/none'], { timeoutMs: 30_000, signal })).code, 0)
    await assert.rejects(sh('/bin/busybox sleep 1000', 1500), { code: 'TIMEOUT' })
    assert.equal((await sh('true')).code, 0)
  })

  test('paused, nothing of it runs until it is resumed; both may be said twice', async () => {
    const { source } = kit()
    const shared = fresh('shared')
    const id = await start({ shared })
    const read = (): string => readFileSync(join(shared, 'count'), 'utf8')
    await source.pause(id, signal)
    await source.pause(id, signal)
    assert.equal(await state(source, id), 'paused')
    const stood = read()
    await new Promise((resolve) => setTimeout(resolve, 500))
    assert.equal(read(), stood)
    await source.resume(id, signal)
    await source.resume(id, signal)
    await until('it counts on', () => read() !== stood && read() !== '', WAIT)
    assert.equal(await state(source, id), 'running')
  })

  test('dumped: a running one runs on, a paused one stays paused, and one that is to stop has ended', async () => {
    const { source } = kit()
    const id = await start()
    const before = await count(source, id)
    await source.dump(id, { dir: fresh('dump'), leave: 'as-it-was' }, signal)
    assert.equal((await count(source, id, before.count)).hash, before.hash)
    await source.pause(id, signal)
    await source.dump(id, { dir: fresh('dump'), leave: 'as-it-was' }, signal)
    assert.equal(await state(source, id), 'paused')
    await source.resume(id, signal)
    const { pid } = await source.inspect(id, signal)
    await source.dump(id, { dir: fresh('dump'), leave: 'stopped' }, signal)
    assert.ok(hasEnded(pid))
    assert.equal(await state(source, id), 'stopped')
  })

  test('a dump that fails says why, and the container is as it was', async () => {
    const { source } = kit()
    const id = await start()
    const before = await count(source, id)
    const file = join(fresh('dump'), 'file')
    writeFileSync(file, 'not a directory')
    const refused = (error: unknown) => isShoalError(error, 'RUNTIME') && error.message.length > 20
    await assert.rejects(source.dump(id, { dir: file, leave: 'stopped' }, signal), refused)
    assert.equal((await count(source, id, before.count)).hash, before.hash)
    await source.pause(id, signal)
    await assert.rejects(source.dump(id, { dir: file, leave: 'as-it-was' }, signal), refused)
    assert.equal(await state(source, id), 'paused')
  })

  test('moved under a new name: it counts on, with its memory, its files and its labels', async () => {
    const { source, target } = kit()
    const id = await start()
    const prepared = await prepare(id)
    assert.equal(await state(target, prepared.id), 'created')
    await source.pause(id, signal)
    const images = fresh('dump')
    await source.dump(id, { dir: images, leave: 'as-it-was' }, signal)
    await prepared.applyWritable(await source.writable(id, signal), signal)
    await prepared.applyWritable(await source.writable(id, signal), signal)
    const cgroups = readFileSync(`/proc/${(await source.inspect(id, signal)).pid}/cgroup`, 'utf8')
    await source.remove(id, signal)
    const { pid } = await prepared.start(images, signal)
    assert.notEqual(readFileSync(`/proc/${pid}/cgroup`, 'utf8'), cgroups)
    const moved = await target.inspect(prepared.id, signal)
    assert.equal(moved.pid, pid)
    assert.equal(moved.state, 'running')
    assert.equal(moved.labels.added, 'yes')
    const first = await count(target, prepared.id)
    const { hash } = await count(target, prepared.id, first.count + 2)
    assert.equal(hash, first.hash)
    const see = ['/bin/busybox', 'sh', '-c', '/bin/busybox cat /data/link; /bin/busybox ls /data']
    const { output } = await target.exec(prepared.id, see, { timeoutMs: 30_000, signal })
    assert.equal(output, 'mine\nfile\nlink\n')

    // And once more, from there: what was restored is a container like any other.
    const again = fresh('dump')
    await target.dump(prepared.id, { dir: again, leave: 'stopped' }, signal)
    const recreation = await target.describe(prepared.id, signal)
    const third = await source.prepare({ name: name('third'), recreation, image: kit().image }, signal)
    made.push({ runtime: source, id: third.id })
    await third.applyWritable(await target.writable(prepared.id, signal), signal)
    await third.start(again, signal)
    assert.equal((await count(source, third.id, first.count + 2)).hash, hash)
  })

  async function restoredInto(): Promise<void> {
    const { source, target } = kit()
    const netns = (pid: number | undefined): number => statSync(`/proc/${pid}/ns/net`).ino
    const own = `/proc/${process.pid}/ns/net`
    // Any that is there will do: it is joined by its path, at both ends.
    const id = await start({ netns: own })
    assert.equal(netns((await source.inspect(id, signal)).pid), statSync(own).ino)
    const helper = await start()
    const other = `/proc/${(await source.inspect(helper, signal)).pid}/ns/net`
    const prepared = await prepare(id, { netns: other })
    const images = fresh('dump')
    // Or its files would be of another moment than its memory.
    await source.pause(id, signal)
    await source.dump(id, { dir: images, leave: 'as-it-was' }, signal)
    await prepared.applyWritable(await source.writable(id, signal), signal)
    const { pid } = await prepared.start(images, signal)
    assert.equal(netns(pid), statSync(other).ino)
    await count(target, prepared.id)
  }
  if (joins) test('restored into the network namespace that is named', restoredInto)

  test('prepared: the name is taken, it is taken up again by its ID, and discarded twice', async () => {
    const { source, target, image } = kit()
    const id = await start()
    const { id: made } = await prepare(id)
    const { name: taken } = await target.inspect(made, signal)
    const recreation = await source.describe(id, signal)
    await assert.rejects(target.prepare({ name: taken, recreation, image }, signal), { code: 'BUSY' })
    await assert.rejects(target.prepare({ name: '../up', recreation, image }, signal), ShoalError)
    const found = await target.prepared(made, signal)
    assert.equal(found.id, made)
    await found.discard(signal)
    await found.discard(signal)
    await assert.rejects(target.prepared(made, signal), { code: 'NOT_FOUND' })
    await assert.rejects(target.inspect(made, signal), { code: 'NOT_FOUND' })
  })

  test('images that are none are refused, and the right ones can be restored after that', async () => {
    const { source, target } = kit()
    const id = await start()
    const images = fresh('dump')
    // Or its files would be of another moment than its memory.
    await source.pause(id, signal)
    await source.dump(id, { dir: images, leave: 'as-it-was' }, signal)
    const prepared = await prepare(id)
    await prepared.applyWritable(await source.writable(id, signal), signal)
    const wrong = fresh('wrong')
    writeFileSync(join(wrong, 'inventory.img'), randomBytes(100))
    await assert.rejects(prepared.start(wrong, signal), { code: 'RUNTIME' })
    const { pid } = await prepared.start(images, signal)
    assert.ok(existsSync(`/proc/${pid}`))
    await count(target, prepared.id)
  })

  test('a layer that is hostile is refused', async () => {
    const id = await start()
    const prepared = await prepare(id)
    await assert.rejects(prepared.applyWritable(Readable.from([randomBytes(4096)]), signal), ShoalError)
    await prepared.applyWritable(await kit().source.writable(id, signal), signal)
  })

  test('a paused one that is removed dies without having run again', async () => {
    const { source } = kit()
    const shared = fresh('shared')
    const id = await start({ shared })
    await source.pause(id, signal)
    const { pid } = await source.inspect(id, signal)
    const stood = readFileSync(join(shared, 'count'), 'utf8')
    assert.equal(await source.remove(id, signal), true)
    assert.equal(readFileSync(join(shared, 'count'), 'utf8'), stood)
    assert.ok(hasEnded(pid))
    assert.equal(await source.remove(id, signal), false)
    await assert.rejects(source.inspect(id, signal), { code: 'NOT_FOUND' })
  })

  test('a signal that has come already is heeded', async () => {
    const { source } = kit()
    const id = await start()
    const gone = AbortSignal.abort()
    const calls: (() => Promise<unknown>)[] = [
      () => source.list(gone),
      () => source.inspect(id, gone),
      () => source.describe(id, gone),
      () => source.pause(id, gone),
      () => source.resume(id, gone),
      () => source.dump(id, { dir: fresh('dump'), leave: 'stopped' }, gone),
      () => source.exec(id, ['/bin/busybox', 'true'], { timeoutMs: 1000, signal: gone }),
      () => source.remove(id, gone),
    ]
    for (const call of calls) await assert.rejects(call(), { code: 'ABORTED' })
    await count(source, id)
  })
}

/** What nobody has waited for yet has ended too. */
function hasEnded(pid: number | undefined): boolean {
  if (!existsSync(`/proc/${pid}/stat`)) return true
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
  return stat.slice(stat.lastIndexOf(')') + 2).startsWith('Z')
}
