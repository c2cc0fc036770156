import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { type TestContext, test } from 'node:test'
import { inflateRawSync } from 'node:zlib'
import { createSwarm, type Swarm } from '../../manager/swarm.ts'
import { checkpointsOn } from './tools.ts'

const signal = AbortSignal.timeout(120_000)

type On = Awaited<ReturnType<typeof checkpointsOn>>

async function site(t: TestContext, secrets: (Buffer | undefined)[]): Promise<{ swarm: Swarm; on: On[] }> {
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
  for (const secret of secrets) on.push(await checkpointsOn(await swarm.add(), secret ? { secret } : {}))
  return { swarm, on }
}

const create = (one: On, more: object = {}) =>
  one.checkpoints.create({ container: 'app', runtime: 'containerd', leaveRunning: true, signal, ...more })
const restore = (one: On, reference = 'app') => one.checkpoints.restore({ reference, name: 'again', signal })

test('one from a node that does not know the secret of the cluster is refused', async (t) => {
  const { on } = await site(t, [randomBytes(32), undefined])
  const [foreign, b] = on as [On, On]
  foreign.runtime.run('app')
  await create(foreign)
  await assert.rejects(restore(b), { code: 'DENIED' })
  await assert.rejects(b.checkpoints.inspect('app:1'), { code: 'DENIED' })
  assert.deepEqual(await b.checkpoints.list(), [])
  assert.deepEqual(b.runtime.done, [])
})

test('one that was changed, moved to another name or signed for somebody else is refused', async (t) => {
  const { on } = await site(t, [undefined, undefined])
  const [a, b] = on as [On, On]
  a.runtime.run('app')
  await create(a)
  const { records } = a.node.manager
  const key = `checkpoint/app/${a.node.id}/1`
  const good = (await records.get(key))?.value as { document: string; signature: string; mac: string }
  const put = (at: string, value: unknown) => records.put(at, value, { copies: 2 })
  const flip = (text: string): string => {
    const bytes = Buffer.from(text, 'base64')
    bytes[10]! ^= 1
    return bytes.toString('base64')
  }
  for (const bad of [
    { ...good, document: flip(good.document) },
    { ...good, signature: flip(good.signature) },
    { ...good, mac: flip(good.mac) },
    { document: good.document },
    'nothing',
  ]) {
    await put(key, bad)
    await assert.rejects(restore(b), { code: 'DENIED' })
  }
  await put(key, undefined)
  for (const other of [
    `checkpoint/bank/${a.node.id}/1`,
    `checkpoint/app/${a.node.id}/2`,
    `checkpoint/app/${b.node.id}/1`,
  ]) {
    await put(other, good)
    await assert.rejects(restore(b, `${other.split('/')[1]}:1`), { code: 'DENIED' }, other)
    await put(other, undefined)
  }
  assert.deepEqual(b.runtime.done, [])
  await put(key, good)
  assert.ok((await restore(b)).container)
})

test('a sealed one is opened by the nodes that it names, and tells the others nothing', async (t) => {
  const { on } = await site(t, [undefined, undefined, undefined])
  const [a, b, c] = on as [On, On, On]
  const source = a.runtime.run('app', { env: ['PASSWORD=tell nobody'] })
  const encryptFor = [a.node.id, b.node.id]
  const first = (await create(a, { encryptFor })).checkpoint
  assert.deepEqual(first.sealedFor?.toSorted(), encryptFor.toSorted())
  const second = (await create(a, { encryptFor })).checkpoint
  assert.ok(second.added < first.added / 10, 'versions for the same nodes share packs')
  const [seen] = await c.checkpoints.list()
  assert.equal(seen?.recreation, undefined)
  await assert.rejects(restore(c), { code: 'DENIED' })
  assert.deepEqual(c.runtime.done, [])
  const record = await c.node.manager.records.get(`checkpoint/app/${a.node.id}/1`)
  const { document = '' } = (record?.value ?? {}) as { document?: string }
  const text = inflateRawSync(Buffer.from(document, 'base64'))
  assert.ok(!text.includes('tell nobody') && !text.includes('PASSWORD'))
  const { container } = await restore(b)
  assert.deepEqual(b.runtime.containers.get(container)?.criu, source.criu)
  assert.ok(b.runtime.containers.get(container)?.env.includes('PASSWORD=tell nobody'))

  const third = (await create(a, { encryptFor: [a.node.id, c.node.id] })).checkpoint
  assert.ok(third.added > first.added / 2, 'other nodes: nothing is shared')
  const plain = (await create(a)).checkpoint
  assert.ok(plain.added > first.added / 2)
  await assert.rejects(restore(b, 'app:3'), { code: 'DENIED' })
  assert.ok((await restore(c, 'app:3')).container)
  await assert.rejects(create(a, { encryptFor: ['nobody'] }), { code: 'NOT_FOUND' })
})

test('the state is not trusted either: one that is not what was signed starts nothing', async (t) => {
  const { on, swarm } = await site(t, [undefined])
  const [a] = on as [On]
  // It keeps nothing for others, so that all of it has to come from the first one.
  const b = await checkpointsOn(await swarm.add({ offer: 0 }))
  on.push(b)
  a.runtime.run('app')
  await create(a)
  a.node.spoil = async (bytes) => {
    bytes[0]! ^= 1
    return bytes
  }
  await assert.rejects(
    b.checkpoints.restore({ reference: 'app', name: 'again', signal: AbortSignal.timeout(3000) }),
  )
  assert.deepEqual(
    b.runtime.done.filter((step) => !step.startsWith('prepare')),
    [],
  )
  assert.equal(b.runtime.containers.size, 0)
})
