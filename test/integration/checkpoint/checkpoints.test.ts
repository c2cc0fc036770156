import assert from 'node:assert/strict'
import { readdir } from 'node:fs/promises'
import { type TestContext, test } from 'node:test'
import { createClaims } from '../../../integration/claims.ts'
import { createSwarm, type Swarm } from '../../manager/swarm.ts'
import { until } from '../../manager/until.ts'
import { checkpointsOn, type TwinRuntime } from './tools.ts'

const signal = AbortSignal.timeout(120_000)

type On = Awaited<ReturnType<typeof checkpointsOn>>

async function site(t: TestContext, count: number): Promise<{ swarm: Swarm; on: On[] }> {
  const swarm = await createSwarm()
  const on: On[] = []
  t.after(async () => {
    for (const one of on) {
      await one.checkpoints.close()
      await one.states.close()
      one.runtime.stop()
    }
    await swarm.close()
  })
  for (let i = 0; i < count; i++) on.push(await checkpointsOn(await swarm.add()))
  return { swarm, on }
}

const create = (one: On, container: string, more: object = {}) =>
  one.checkpoints.create({ container, runtime: 'containerd', leaveRunning: true, signal, ...more })

/** What is on its way in or out; CRIU's configuration stays. */
const left = async (one: On): Promise<string[]> =>
  (await readdir(one.dir)).filter((name) => !name.endsWith('.conf'))

function same(runtime: TwinRuntime, id: string, criu: Record<string, Buffer>, layer: Buffer): void {
  const made = runtime.containers.get(id)
  assert.deepEqual(made?.criu, criu)
  assert.deepEqual(made?.layer, layer)
}

test('a checkpoint made on one node is restored on another, after the first one is gone', async (t) => {
  const { swarm, on } = await site(t, 3)
  const [a, b] = on as [On, On, On]
  const source = a.runtime.run('Redis_1')
  const { checkpoint, seconds } = await create(a, 'Redis_1', { leaveRunning: false })
  assert.equal(`${checkpoint.name}:${checkpoint.version}`, 'redis-1:1')
  assert.deepEqual(Object.keys(seconds), ['check', 'image', 'dump', 'capture', 'store', 'publish', 'remove'])
  assert.equal(a.runtime.containers.size, 0, 'it is removed when the checkpoint is safe')
  assert.deepEqual(
    (await b.checkpoints.list()).map(({ name, version, node }) => [name, version, node]),
    [['redis-1', 1, a.node.id]],
  )
  assert.deepEqual(await left(a), [])
  await a.checkpoints.close()
  await swarm.kill(a.node)
  on.splice(0, 1)
  const restored = await b.checkpoints.restore({ reference: 'redis-1', name: 'again', signal })
  same(b.runtime, restored.container, source.criu, source.layer)
  assert.equal(b.runtime.containers.get(restored.container)?.labels['shoal.checkpoint'], 'redis-1:1')
  assert.deepEqual(Object.keys(restored.seconds), ['check', 'state', 'prepare', 'layer', 'start'])
  assert.deepEqual(await left(b), [])
  a.runtime.stop()
})

test('a later version costs what changed, and packs that others need stay when one goes', async (t) => {
  const { on } = await site(t, 2)
  const [a, b] = on as [On, On]
  const source = a.runtime.run('app')
  const first = (await create(a, 'app')).checkpoint
  source.criu['pages-1.img']?.fill(7, 4096 * 9, 4096 * 10)
  const second = (await create(a, 'app')).checkpoint
  assert.deepEqual([first.version, second.version], [1, 2])
  assert.ok(second.added < first.added / 10, `${second.added} of ${first.added}`)
  assert.equal(await b.checkpoints.remove('app:1', signal), 1)
  const { container } = await b.checkpoints.restore({ reference: 'app:2', signal })
  same(b.runtime, container, source.criu, source.layer)
  await assert.rejects(b.checkpoints.inspect('app:1'), { code: 'NOT_FOUND' })
  assert.equal(await a.checkpoints.remove('app', signal), 1)
  assert.deepEqual(await a.node.manager.storing.ofRepository('checkpoints'), [])
  await assert.rejects(b.checkpoints.restore({ reference: 'app', signal }), { code: 'NOT_FOUND' })
})

test('two nodes that publish at once get two versions', async (t) => {
  const { on } = await site(t, 2)
  const [a, b] = on as [On, On]
  a.runtime.run('app')
  b.runtime.run('app')
  const twice = create(a, 'app', { name: 'other' })
  await assert.rejects(create(a, 'app'), { code: 'BUSY' })
  await twice
  const made = await Promise.all([create(a, 'app'), create(b, 'app')])
  const versions = made.map(({ checkpoint }) => checkpoint.version)
  assert.equal(new Set(versions).size, 2, String(versions))
  assert.equal((await a.checkpoints.list()).length, 3)
})

test('whatever fails leaves the container as it was, and no litter', async (t) => {
  const { on } = await site(t, 1)
  const [a] = on as [On]
  const source = a.runtime.run('app')
  for (const step of ['pause', 'dump', 'writable']) {
    a.runtime.failAt = step
    await assert.rejects(create(a, 'app', { leaveRunning: false }), { code: 'RUNTIME' })
    assert.equal(source.state, 'running', step)
  }
  a.runtime.failAt = undefined
  const given = new AbortController()
  const onStep = (step: string): void => {
    if (step === 'store') given.abort(new Error('enough'))
  }
  await assert.rejects(create(a, 'app', { leaveRunning: false, signal: given.signal, onStep }))
  assert.equal(source.state, 'running')
  assert.deepEqual(await left(a), [])
  assert.deepEqual(await a.checkpoints.list(), [])
  assert.deepEqual(await a.node.manager.storing.ofRepository('checkpoints'), [])
  source.state = 'paused'
  await create(a, 'app')
  assert.equal(source.state, 'paused', 'one that was frozen before stays so')
})

test('a restore that fails removes what it made; one that is unfit makes nothing, and says all reasons', async (t) => {
  const { on } = await site(t, 1)
  const [a] = on as [On]
  a.runtime.run('app')
  await create(a, 'app')
  for (const step of ['prepare', 'layer', 'start']) {
    a.runtime.failAt = step
    await assert.rejects(a.checkpoints.restore({ reference: 'app', name: 'b', signal }), { code: 'RUNTIME' })
    assert.equal(a.runtime.containers.size, 1, step)
    assert.deepEqual(await left(a), [])
  }
  a.runtime.failAt = undefined
  a.runtime.done.length = 0
  a.runtime.facts_.criu = '3.17'
  await assert.rejects(
    a.checkpoints.restore({ reference: 'app', signal }),
    (error: Error & { code?: string }) => {
      assert.equal(error.code, 'UNFIT')
      assert.match(error.message, /CRIU 3\.17 is older.*there is a container app already/)
      return true
    },
  )
  assert.deepEqual(a.runtime.done, [])
})

test('what the last daemon has left half done is set right by the next one', async (t) => {
  const { on } = await site(t, 1)
  const [a] = on as [On]
  const frozen = a.runtime.run('frozen')
  frozen.state = 'paused'
  const unfinished = a.node.store.records('checkpoints.unfinished')
  await unfinished.put('frozen', { runtime: 'containerd', id: frozen.id, what: 'frozen' })
  const half = a.runtime.run('half')
  Object.assign(half, { state: 'created', labels: { 'shoal.checkpoint': 'app:1' } })
  await unfinished.put('half', { runtime: 'containerd', id: 'half', what: 'made', label: 'app:1' })
  const own = a.runtime.run('own')
  own.state = 'created'
  await unfinished.put('own', { runtime: 'containerd', id: 'own', what: 'made', label: 'app:1' })
  const again = await checkpointsOn(a.node, { runtime: a.runtime })
  await again.checkpoints.close()
  await again.states.close()
  assert.equal(frozen.state, 'running')
  assert.deepEqual([...a.runtime.containers.keys()].sort(), [frozen.id, own.id].sort())
  assert.deepEqual(await Array.fromAsync(unfinished.entries()), [])
})

test('an expired checkpoint is not given out, and goes with its blobs: by its node, and later by any', async (t) => {
  const swarm = await createSwarm()
  let now = Date.now()
  const a = await checkpointsOn(await swarm.add(), { now: () => now })
  const b = await checkpointsOn(await swarm.add(), { now: () => now })
  t.after(async () => {
    for (const one of [a, b]) {
      await one.checkpoints.close()
      await one.states.close()
      one.runtime.stop()
    }
    await swarm.close()
  })
  a.runtime.run('app')
  const records = async (): Promise<number> =>
    (await Array.fromAsync(a.node.manager.records.entries('checkpoint/'))).length
  await create(a, 'app', { expiresInMs: 60_000 })
  await create(a, 'app')
  await create(a, 'app', { name: 'other', expiresInMs: 62_000 })
  now += 61_000
  assert.deepEqual(
    (await b.checkpoints.list()).map(({ name, version }) => [name, version]),
    [
      ['app', 2],
      ['other', 1],
    ],
  )
  await b.checkpoints.sweep(signal)
  assert.equal(await records(), 3, 'the clock of b may be ahead')
  await a.checkpoints.sweep(signal)
  assert.equal(await records(), 2)
  now += 10 * 60_000
  await b.checkpoints.sweep(signal)
  assert.equal(await records(), 2)
  now += 1000
  await b.checkpoints.sweep(signal)
  const stored = async () => (await a.node.manager.storing.ofRepository('checkpoints')).length
  // What b has taken away comes to a by itself, a moment later.
  await until(async () => (await stored()) === 1 && (await records()) === 1)
  const { container } = await b.checkpoints.restore({ reference: 'app', signal })
  assert.ok(container)
})

test('a plan keeps the last versions and ends with its container', async (t) => {
  const { on } = await site(t, 1)
  const [a] = on as [On]
  const source = a.runtime.run('app')
  await assert.rejects(
    a.checkpoints.schedule({ container: 'app', runtime: 'containerd', everyMs: 5 }, signal),
    { code: 'USAGE' },
  )
  await a.checkpoints.schedule({ container: 'app', runtime: 'containerd', everyMs: 1000, keep: 2 }, signal)
  await until(async () => (await a.checkpoints.list()).at(-1)?.version === 3)
  await until(async () => (await a.checkpoints.list()).length === 2)
  assert.equal(source.state, 'running')
  a.runtime.containers.delete(source.id)
  await until(async () => a.checkpoints.schedules().length === 0)
  assert.ok((await a.checkpoints.list()).length >= 2, 'what was made stays')
  assert.deepEqual(await Array.fromAsync(a.node.store.records('checkpoints.schedules').entries()), [])
})

test('a container that is moving is left alone, and one that is being checkpointed does not begin to', async (t) => {
  const swarm = await createSwarm()
  let moving = true
  const a = await checkpointsOn(await swarm.add(), { isMoving: async () => moving })
  t.after(async () => {
    await a.checkpoints.close()
    await a.states.close()
    a.runtime.stop()
    await swarm.close()
  })
  a.runtime.run('app')
  await assert.rejects(create(a, 'app'), { code: 'BUSY' })
  assert.deepEqual(a.runtime.done, [])
  moving = false
  await create(a, 'app')
  const claim = createClaims()
  const release = claim('containerd', 'c1', 'checkpointed')
  assert.throws(() => claim('containerd', 'c1', 'moved'), /c1 is being checkpointed/)
  claim('docker', 'c1', 'moved')
  release()
  claim('containerd', 'c1', 'moved')
})

test('what is stored and no checkpoint names goes, but only when it was so for an hour', async (t) => {
  const swarm = await createSwarm()
  let now = Date.now()
  const node = await swarm.add()
  const a = await checkpointsOn(node, { now: () => now })
  t.after(async () => {
    await a.checkpoints.close()
    await a.states.close()
    a.runtime.stop()
    await swarm.close()
  })
  a.runtime.run('app')
  await create(a, 'app')
  const { records, storing } = node.manager
  const stored = async (): Promise<number> => (await storing.ofRepository('checkpoints')).length
  // As on a node that has one of the records and not yet the other.
  const key = `checkpoint/app/${node.id}/1`
  const value = (await records.get(key))?.value
  await records.put(key, undefined, { copies: 1 })
  const later = async (ms: number): Promise<void> => {
    now += ms
    await a.checkpoints.sweep(signal, 3_600_000)
  }
  await later(0)
  await later(3_000_000)
  assert.equal(await stored(), 1)
  await records.put(key, value, { copies: 1 })
  await later(700_000)
  await records.put(key, undefined, { copies: 1 })
  await later(3_000_000)
  await later(3_000_000)
  assert.equal(await stored(), 1, 'it was named in between')
  await later(700_000)
  assert.equal(await stored(), 0)
})
