import assert from 'node:assert/strict'
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { createTurns, digestOf, silentLog } from '../../../base/index.ts'
import { measureCpu } from '../../../integration/offload/measures.ts'
import { readFacts, readOrder, readReport } from '../../../integration/offload/messages.ts'
import { addressOf } from '../../../integration/offload/node/index.ts'
import { createPodLogs } from '../../../integration/offload/node/logs.ts'
import type { Apps } from '../../../integration/offload/site/apps.ts'
import { createSurvey } from '../../../integration/offload/site/survey.ts'
import type { Talk } from '../../../integration/offload/talk.ts'
import type { Member, Membership } from '../../../manager/index.ts'
import { pod } from './fleet.ts'

test('turns: one after the other for a key, so many at once over all', async () => {
  const turns = createTurns(2)
  let now = 0
  let most = 0
  const order: string[] = []
  const body = (name: string) => async () => {
    most = Math.max(most, ++now)
    await sleep(2)
    now--
    order.push(name)
    if (name === 'a1') throw new Error('once')
  }
  const all = ['a1', 'a2', 'b1', 'c1', 'a3'].map((name) => turns.run(name[0]!, body(name)))
  await assert.rejects(all[0]!, /once/)
  await turns.idle()
  assert.equal(most, 2)
  assert.deepEqual(
    order.filter((name) => name.startsWith('a')),
    ['a1', 'a2', 'a3'],
  )
})

test('the address that UEs are told is the first that leads to the node', () => {
  assert.equal(addressOf(['/ip4/127.0.0.1/tcp/1', '/ip4/10.1.2.3/tcp/1', '/ip4/10.9.9.9/tcp/1']), '10.1.2.3')
  assert.equal(addressOf(['/ip6/fd00::7/tcp/1']), '[fd00::7]')
  assert.equal(addressOf(['/dns4/edge.example/tcp/1']), 'edge.example')
  assert.equal(addressOf([]), '127.0.0.1')
})

test('a log that became too long is emptied, and goes with its pod', async (t) => {
  const dir = await mkdtemp(join(tmpdir(), 'shoal-logs-'))
  t.after(() => rm(dir, { recursive: true }))
  const logs = await createPodLogs({ dir, maxBytes: 100 })
  t.after(() => logs.close())
  await writeFile(logs.file('long'), 'x'.repeat(101))
  await writeFile(logs.file('short'), 'x'.repeat(99))
  await logs.trim()
  assert.deepEqual((await readdir(dir)).sort(), ['long.log', 'short.log'])
  await logs.drop('long')
  await logs.drop('long')
  assert.deepEqual(await readdir(dir), ['short.log'])
})

test('a core has a speed', async () => {
  assert.ok((await measureCpu()) > 0)
})

test('what another node says is checked', () => {
  const order = { app: 'a1', pod: 'x', owner: 'ue', manager: 'p', generation: 1, spec: pod('x') }
  assert.equal(readOrder(order).pod, 'x')
  const bad: unknown[] = [
    undefined,
    7,
    {},
    { ...order, app: '../a' },
    { ...order, generation: -1 },
    { ...order, spec: { ...pod('x'), name: '..' } },
    { ...order, spec: { ...pod('x'), image: '-v' } },
    { ...order, spec: { ...pod('x'), env: { 'A=B': 'c' } } },
    { ...order, spec: { ...pod('x'), ports: [1.5] } },
    { ...order, spec: { ...pod('x'), memory: Number.NaN } },
  ]
  for (const body of bad) assert.throws(() => readOrder(body), /./, JSON.stringify(body))
  assert.throws(() => readReport({ ...order, phase: 'toString', ports: [], restarts: 0 }), {
    code: 'PROTOCOL',
  })
  assert.throws(() => readFacts({ capacity: {} }), { code: 'PROTOCOL' })
})

test('what is missing on a node comes from neighbours at the rates that were seen, and the rest from upstream', async () => {
  const size = 100e6
  const blobs = [{ digest: digestOf(Buffer.from('x')), size }]
  const facts = (here: number, links: { peer: string; rate: number }[]) => ({
    unfit: undefined,
    capacity: { cpu: 1, memory: 1, storage: 1 },
    reserved: [{ manager: 'other', cpu: 0.25, memory: 0, storage: 0 }],
    score: 1,
    busy: 0,
    uplink: 0,
    here: [here],
    links: links.map((link) => ({ ...link, latencyMs: 2 })),
  })
  const said: Record<string, unknown> = {
    a: facts(0, [
      { peer: 'b', rate: 50e6 },
      { peer: 'c', rate: 0 },
    ]),
    b: facts(size, []),
    c: facts(0, []),
  }
  const members = {
    site: () => Object.keys(said).map((id) => ({ id, name: id, state: 'alive' }) as Member),
    find: () => undefined,
  } as unknown as Membership
  const talk = { self: 'm', ask: async (peer: string) => said[peer] } as unknown as Talk
  const apps = { all: () => [][Symbol.iterator](), get: () => undefined } as unknown as Apps
  const survey = createSurvey({
    talk,
    members,
    apps,
    images: () => [{ name: 'i', blobs }],
    blobs: () => blobs,
    log: silentLog(),
  })
  assert.equal(survey.isStale(), true)
  await survey.refresh()
  assert.equal(survey.isStale(), false)
  const query = {
    entry: 'a',
    within: undefined,
    except: () => false,
    refused: () => undefined,
    images: ['i'],
  }
  const at = () => Object.fromEntries(survey.nodes(query).map((node) => [node.name, node]))
  assert.deepEqual(at().a!.images, { i: { missing: size, rate: 50e6 } })
  assert.deepEqual(at().b!.images.i!.missing, 0)
  assert.equal(at().a!.free.cpu, 0.75, 'what others have reserved is not free')
  assert.equal(at().a!.delayMs, 0)
  assert.equal(at().b!.delayMs, 2)
  assert.equal(at().c!.delayMs, 2, 'measured from the other end')
  said.b = facts(0, [])
  await survey.refresh({ now: true })
  assert.deepEqual(at().a!.images, { i: { missing: size, rate: 12e6 } }, 'nobody has it')
})
