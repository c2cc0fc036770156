import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { ShoalError, silentLog } from '../../../base/index.ts'
import { createCrew } from '../../../integration/state/crew.ts'
import { createStates } from '../../../integration/state/index.ts'
import { type Bench, createBench, origin, pages, readFiles, type StateNode, signal } from './tools.ts'

const MIB = 2 ** 20

/** Processes that this one has started for states. */
function helpers(): number[] {
  const out = execFileSync('ps', ['-o', 'pid=,args=', '--ppid', `${process.pid}`], { encoding: 'utf8' })
  return out
    .split('\n')
    .filter((line) => line.includes('state/work/main'))
    .map((line) => Number.parseInt(line, 10))
}

/** Kills them, and waits until this process knows. */
async function killHelpers(): Promise<void> {
  const pids = helpers()
  for (const pid of pids) process.kill(pid, 'SIGKILL')
  await until(() => pids.every((pid) => !existsSync(`/proc/${pid}`)))
}

async function until(condition: () => boolean): Promise<void> {
  for (const end = Date.now() + 30_000; !condition(); ) {
    assert.ok(Date.now() < end, 'it did not happen')
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

/** Two versions of a state, captured on a node. */
async function two(bench: Bench, node: StateNode) {
  const memory = pages(2000)
  const contents = [
    { 'pages-1.img': memory, 'a.img': Buffer.from('a'), gone: Buffer.from('g') },
    { 'pages-1.img': Buffer.concat([pages(400), memory.subarray(40 * 4096)]), 'a.img': Buffer.from('b') },
  ] as const
  const first = await node.states.capture({ files: await bench.dump(contents[0]), signal: signal() })
  const second = await node.states.capture({
    files: await bench.dump(contents[1]),
    base: first.recipe,
    signal: signal(),
  })
  return { contents, first, second }
}

describe('a capture', () => {
  test('of files that are not there, or of a bad path, says so and leaves nothing', async (t) => {
    const bench = await createBench(t)
    const node = await bench.add()
    const [file] = await bench.dump({ a: Buffer.from('a') })
    const missing = { path: 'b', from: '/nowhere/b' }
    await assert.rejects(node.states.capture({ files: [file!, missing], signal: signal() }), /ENOENT/)
    const inside = { ...file!, path: 'a/b' }
    await assert.rejects(node.states.capture({ files: [file!, inside], signal: signal() }), { code: 'USAGE' })
    for (const path of ['../a', '/a', 'a/', '.'])
      await assert.rejects(node.states.capture({ files: [{ ...file!, path }], signal: signal() }), {
        code: 'USAGE',
      })
    await assert.rejects(node.states.capture({ files: [file!, file!], signal: signal() }), { code: 'USAGE' })
    assert.deepEqual(readdirSync(join(node.home, 'making')), [])
  })

  test('that finds no room ends with STORE_FULL, and the next one works', async (t) => {
    const bench = await createBench(t)
    const node = await bench.add({ quota: 24 * MIB })
    const files = await bench.dump({ 'pages-1.img': pages(8192) })
    await assert.rejects(node.states.capture({ files, signal: signal() }), { code: 'STORE_FULL' })
    assert.deepEqual(readdirSync(join(node.home, 'making')), [])
    const small = await bench.dump({ 'pages-1.img': pages(1000) })
    const { recipe } = await node.states.capture({ files: small, signal: signal() })
    assert.equal(await node.manager.holds(recipe), true)
  })

  test('that is aborted ends soon, and leaves nothing', async (t) => {
    const bench = await createBench(t)
    const node = await bench.add()
    const files = await bench.dump({ 'pages-1.img': pages(12_000) })
    const stop = new AbortController()
    const capture = node.states.capture({ files, signal: stop.signal })
    const ended = assert.rejects(capture, { name: 'AbortError' })
    await until(() => readdirSync(join(node.home, 'making')).length > 0)
    stop.abort()
    await ended
    assert.deepEqual(readdirSync(join(node.home, 'making')), [])
  })

  test('whose process is killed fails, and the next one starts another', async (t) => {
    const bench = await createBench(t)
    const node = await bench.add()
    const files = await bench.dump({ 'pages-1.img': pages(12_000) })
    const capture = node.states.capture({ files, signal: signal() })
    const ended = assert.rejects(capture, { code: 'INTERNAL' })
    await until(
      () => existsSync(join(node.home, 'making')) && readdirSync(join(node.home, 'making')).length > 0,
    )
    await killHelpers()
    await ended
    assert.deepEqual(readdirSync(join(node.home, 'making')), [])
    const { changed } = await node.states.capture({ files, signal: signal() })
    assert.equal(changed, 12_000 * 4096)
  })

  test('makes again what it knows of its base; what is lost of the base is written again', async (t) => {
    const bench = await createBench(t)
    const node = await bench.add()
    const { contents, first } = await two(bench, node)
    const again = async (base = first.recipe) => {
      // Nothing is warm in a process that is new.
      await killHelpers()
      const files = await bench.dump(contents[0])
      return node.states.capture({ files, base, signal: signal() })
    }
    const names = join(node.home, 'pages')
    rmSync(names, { recursive: true })
    assert.equal((await again()).changed, 0)
    for (const file of readdirSync(names)) {
      const bytes = readFileSync(join(names, file))
      bytes[20] = bytes[20]! ^ 1
      writeFileSync(join(names, file), bytes)
    }
    assert.equal((await again()).changed, 0)
    for (const file of readdirSync(names)) truncateSync(join(names, file), 5)
    assert.equal((await again()).changed, 0)
    await node.store.remove(first.blobs[1]!.digest)
    assert.equal((await again()).changed, first.size)
    await node.store.remove(first.recipe)
    assert.equal((await again()).changed, first.size)
  })

  test('does not take a dump for the same that was written to since', async (t) => {
    const bench = await createBench(t)
    const node = await bench.add()
    const memory = pages(600)
    const files = await bench.dump({ 'pages-1.img': memory })
    const { recipe } = await node.states.capture({ files, signal: signal() })
    const changed = Buffer.from(memory)
    pages(1).copy(changed, 30 * 4096)
    writeFileSync(files[0]!.from, changed)
    const second = await node.states.capture({ files, base: recipe, signal: signal() })
    assert.equal(second.changed, 4096)
    const dir = bench.fresh()
    await node.states.assemble({ recipe: second.recipe, dir, origin: origin(node.manager), signal: signal() })
    assert.deepEqual(readFiles(dir), { 'pages-1.img': changed })
  })
})

describe('the helper', () => {
  test('ends when it has nothing to do, and comes again', async (t) => {
    const crew = createCrew({ log: silentLog(), idleMs: 100 })
    t.after(() => crew.close())
    for (let i = 0; i < 2; i++) {
      const job = crew.run('blobs', { recipe: 'none' }, { handlers: {}, signal: signal() })
      await assert.rejects(job, { code: 'ABORTED' })
      await until(() => helpers().length === 0)
    }
    await crew.close()
    await assert.rejects(crew.run('blobs', {}, { handlers: {}, signal: signal() }), { code: 'ABORTED' })
  })
})

describe('what a capture holds', () => {
  test('outlives pressure and a restart, until it is released', async (t) => {
    const bench = await createBench(t)
    const node = await bench.add({ quota: 40 * MIB })
    const files = await bench.dump({ 'pages-1.img': pages(2000) })
    const { recipe, blobs } = await node.states.capture({ files, signal: signal() })
    const holdsAll = async (): Promise<boolean> => {
      const held = await Promise.all(blobs.map(({ digest }) => node.manager.holds(digest)))
      return held.every((holds) => holds)
    }
    await node.store.collect(signal(), { all: true })
    assert.equal(await holdsAll(), true)
    await node.states.close()
    const { manager, store, home: dir } = node
    const states = createStates({ manager, store, dir, log: silentLog() })
    t.after(() => states.close())
    await states.blobs(recipe, origin(node.manager), signal())
    await node.store.collect(signal(), { all: true })
    assert.equal(await holdsAll(), true)
    await states.release(recipe)
    await node.store.collect(signal(), { all: true })
    assert.equal(await holdsAll(), false)
    assert.equal(readdirSync(join(node.home, 'pages')).length, 1)
    await states.release(recipe)
    assert.deepEqual(readdirSync(join(node.home, 'pages')), [])
  })
})

describe('an assembly', () => {
  test('that was killed in the middle is made whole by another from nothing', async (t) => {
    const bench = await createBench(t)
    const [a, b] = [await bench.add(), await bench.add()]
    const { contents, first, second } = await two(bench, a)
    const dir = bench.fresh()
    const from = { dir, origin: origin(b.manager), signal: signal() }
    await b.states.assemble({ ...from, recipe: first.recipe })
    const moving = b.states.assemble({ ...from, recipe: second.recipe, previous: first.recipe })
    const ended = assert.rejects(moving, { code: 'INTERNAL' })
    await until(() => existsSync(join(dir, 'pages-1.img.shoal-new')))
    await killHelpers()
    await ended
    await b.states.assemble({ ...from, recipe: second.recipe })
    assert.deepEqual(readFiles(dir), contents[1])
  })

  test('over a state of which files are missing or were cut is one from nothing', async (t) => {
    const bench = await createBench(t)
    const [a, b] = [await bench.add(), await bench.add()]
    const { contents, first, second } = await two(bench, a)
    const from = { dir: bench.fresh(), origin: origin(b.manager), signal: signal() }
    for (const spoil of [
      () => rmSync(join(from.dir, 'a.img')),
      () => truncateSync(join(from.dir, 'pages-1.img'), 5),
    ]) {
      await b.states.assemble({ ...from, recipe: first.recipe })
      spoil()
      await b.states.assemble({ ...from, recipe: second.recipe, previous: first.recipe })
      assert.deepEqual(readFiles(from.dir), contents[1])
    }
  })

  test('over a state whose recipe is nowhere any more is one from nothing', async (t) => {
    const bench = await createBench(t)
    const node = await bench.add()
    const { contents, first, second } = await two(bench, node)
    const from = { dir: bench.fresh(), origin: origin(node.manager), signal: signal() }
    await node.states.assemble({ ...from, recipe: first.recipe })
    await node.store.remove(first.recipe)
    await killHelpers()
    await node.states.assemble({ ...from, recipe: second.recipe, previous: first.recipe })
    assert.deepEqual(readFiles(from.dir), contents[1])
  })

  test('of a pack that nobody has, or that a peer spoils, throws and gives nothing wrong', async (t) => {
    const bench = await createBench(t)
    const [a, b, c] = [await bench.add(), await bench.add(), await bench.add()]
    const { contents, first } = await two(bench, a)
    const from = { dir: bench.fresh(), recipe: first.recipe, origin: origin(b.manager), signal: signal() }
    await b.states.blobs(first.recipe, from.origin, signal())
    a.spoil = async (bytes) => bytes.fill(1)
    const stop = AbortSignal.timeout(3000)
    await assert.rejects(b.states.assemble({ ...from, signal: stop }))
    assert.equal(readFiles(from.dir)['pages-1.img']?.includes(Buffer.alloc(100, 1)) ?? false, false)
    a.spoil = undefined
    await c.states.assemble({ ...from, origin: origin(c.manager) })
    assert.deepEqual(readFiles(from.dir), contents[0])
    for (const { store } of [a, b, c]) await store.remove(first.blobs[1]!.digest)
    const nowhere = () => ({
      label: 'nowhere',
      fetch: () => Promise.reject(new ShoalError('NOT_FOUND', 'no such blob')),
    })
    await assert.rejects(c.states.assemble({ ...from, origin: nowhere }), { code: 'NOT_FOUND' })
  })

  test('of a file that cannot be written says why', async (t) => {
    const bench = await createBench(t)
    const node = await bench.add()
    const { first } = await two(bench, node)
    writeFileSync(join(bench.dir, 'file'), '')
    const dir = join(bench.dir, 'file', 'below')
    const from = { dir, recipe: first.recipe, origin: origin(node.manager), signal: signal() }
    await assert.rejects(node.states.assemble(from), /ENOTDIR/)
  })
})

describe('a read', () => {
  test('may end early, and of a file that is not there says so', async (t) => {
    const bench = await createBench(t)
    const node = await bench.add()
    const { contents, first } = await two(bench, node)
    const from = { recipe: first.recipe, start: 0, end: 1e9, origin: origin(node.manager), signal: signal() }
    for (let i = 0; i < 3; i++) {
      for await (const part of node.states.read({ ...from, path: 'pages-1.img' })) {
        assert.deepEqual(Buffer.from(part), contents[0]['pages-1.img'].subarray(0, part.length))
        break
      }
    }
    const nothing = node.states.read({ ...from, path: 'b' })[Symbol.asyncIterator]()
    await assert.rejects(nothing.next(), { code: 'NOT_FOUND' })
    const parts: Buffer[] = []
    for await (const part of node.states.read({ ...from, path: 'a.img' })) parts.push(Buffer.from(part))
    assert.equal(Buffer.concat(parts).toString(), 'a')
  })
})
