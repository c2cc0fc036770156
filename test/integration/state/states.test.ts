import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { describe, test } from 'node:test'
import { createBench, origin, pages, readFiles, signal } from './tools.ts'

describe('a state', () => {
  test('is captured here and assembled on another node', async (t) => {
    const bench = await createBench(t)
    const [a, b] = [await bench.add(), await bench.add()]
    const contents = {
      'pages-1.img': Buffer.concat([pages(300), Buffer.alloc(40 * 4096), pages(5)]),
      'core-1.img': Buffer.from('core'),
      empty: Buffer.alloc(0),
      'deep/er/config.json': Buffer.from('{}'),
    }
    const captured = await a.states.capture({ files: await bench.dump(contents), signal: signal() })
    assert.equal(captured.size, 345 * 4096 + 6)
    assert.equal(captured.changed, 305 * 4096 + 6)
    const dir = bench.fresh()
    const { recipe } = captured
    const first = await b.states.assemble({ recipe, dir, origin: origin(b.manager), signal: signal() })
    assert.deepEqual(readFiles(dir), contents)
    assert.equal(first.bytesFetched, captured.added)
    const blobs = await b.states.blobs(recipe, origin(b.manager), signal())
    assert.deepEqual(blobs, captured.blobs)
  })

  test('of another version costs what differs, wherever it moved to', async (t) => {
    const bench = await createBench(t)
    const [a, b] = [await bench.add(), await bench.add()]
    const memory = pages(600)
    const changed = Buffer.concat([
      pages(2),
      memory.subarray(0, 100 * 4096),
      pages(1),
      memory.subarray(101 * 4096),
    ])
    const versions = [
      { 'pages-1.img': memory, 'a.img': Buffer.from('one'), gone: Buffer.from('x') },
      { 'pages-1.img': changed, 'a.img': Buffer.from('two') },
    ]
    const first = await a.states.capture({ files: await bench.dump(versions[0]!), signal: signal() })
    const base = first.recipe
    const second = await a.states.capture({ files: await bench.dump(versions[1]!), base, signal: signal() })
    assert.equal(second.changed, 3 * 4096 + 3)
    const dir = bench.fresh()
    const from = { dir, origin: origin(b.manager), signal: signal() }
    await b.states.assemble({ ...from, recipe: base })
    const { bytesFetched } = await b.states.assemble({ ...from, recipe: second.recipe, previous: base })
    assert.equal(bytesFetched, second.added)
    assert.deepEqual(readFiles(dir), versions[1])
    const parts: Buffer[] = []
    const range = { recipe: second.recipe, path: 'pages-1.img', start: 5000, end: 2_000_000 }
    for await (const part of b.states.read({ ...range, origin: origin(b.manager), signal: signal() }))
      parts.push(Buffer.from(part))
    assert.deepEqual(Buffer.concat(parts), changed.subarray(5000, 2_000_000))
  })

  test('that is sealed opens with its key alone, and shares nothing with others', async (t) => {
    const bench = await createBench(t)
    const [a, b] = [await bench.add(), await bench.add()]
    const seals = ['one', 'two'].map((id) => ({ id, key: randomBytes(32) }))
    const memory = pages(200)
    const files = await bench.dump({ 'pages-1.img': Buffer.concat([memory, Buffer.alloc(4096, 1)]) })
    const open = await a.states.capture({ files, signal: signal() })
    const first = await a.states.capture({ files, seal: seals[0]!, base: open.recipe, signal: signal() })
    assert.equal(first.changed, 201 * 4096)
    const again = await a.states.capture({ files, seal: seals[0]!, base: first.recipe, signal: signal() })
    assert.equal(again.changed, 0)
    const other = await a.states.capture({ files, seal: seals[1]!, base: first.recipe, signal: signal() })
    assert.equal(other.changed, 201 * 4096)
    const dir = bench.fresh()
    const from = { recipe: first.recipe, dir, origin: origin(b.manager), signal: signal() }
    await assert.rejects(b.states.assemble(from), { code: 'PROTOCOL' })
    await assert.rejects(b.states.assemble({ ...from, seal: seals[1]! }), { code: 'DENIED' })
    await b.states.assemble({ ...from, seal: seals[0]! })
    assert.deepEqual(Object.keys(readFiles(dir)), ['pages-1.img'])
    for (const { digest } of first.blobs)
      for (const { cid } of await a.store.segments(digest))
        assert.equal((await a.store.read(cid)).includes(memory.subarray(0, 64)), false)
  })
})
