import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import type { App, AppMoved } from '../../../integration/offload/types.ts'
import { app, createFleet, type Fleet, pod, until } from './fleet.ts'

const UE = 'ue1'

async function fleetIn(t: TestContext, ...args: Parameters<typeof createFleet>): Promise<Fleet> {
  const fleet = await createFleet(...args)
  t.after(() => fleet.close())
  return fleet
}

const offloadOf = (fleet: Fleet, i = 0) => fleet.nodes[i]!.daemon!.offload
const running = (fleet: Fleet) =>
  fleet.nodes.flatMap((node) => [...node.containers.values()].filter((c) => c.running))
const signal = () => AbortSignal.timeout(120e3)

async function isState(fleet: Fleet, id: string, state: App['state'], i = 0): Promise<App> {
  let last: App | undefined
  await until(`${id} is ${state}`, async () => {
    last = await offloadOf(fleet, i).get(UE, id)
    return last?.state === state
  })
  return last!
}

async function nothingLeft(fleet: Fleet): Promise<void> {
  for (const node of fleet.nodes) {
    assert.deepEqual([...node.containers.keys()], [], `containers on ${node.name}`)
    assert.deepEqual([...node.networks.keys()], [], `networks on ${node.name}`)
    assert.deepEqual(node.daemon?.executor.reports() ?? [], [])
  }
}

test('an application is registered, offloaded, shown and deleted, and nothing is left of it', async (t) => {
  const fleet = await fleetIn(t, 3)
  const offload = offloadOf(fleet)
  const states: string[] = []
  offload.onChange(({ state }) => states.at(-1) !== state && states.push(state))
  const { id, state } = await offload.register(UE, app([pod('a'), pod('b')]))
  assert.ok(state === 'copying' || state === 'registered')
  await until('it is copied', async () => (await offload.get(UE, id))?.state === 'registered')
  assert.deepEqual([...fleet.stored], ['lab/app:1'])
  assert.equal((await offload.offload(UE, id, {})).state, 'starting')
  const up = await isState(fleet, id, 'running')
  assert.equal(new Set(up.pods.map(({ node }) => node)).size, 2, 'its pods are spread')
  for (const { referenceURI, startedMs, peer } of up.pods) {
    const i = fleet.nodes.findIndex(({ id: of }) => of === peer)
    assert.match(referenceURI!, new RegExp(`^http://10\\.0\\.0\\.${i + 1}:3\\d{4}$`))
    assert.ok(startedMs! >= 0)
  }
  assert.equal(up.reasons.length, 3)
  assert.equal(await offload.delete('another', id, signal()), false)
  assert.equal(await offload.get('another', id), undefined)
  assert.equal(await offload.delete(UE, id, signal()), true)
  await nothingLeft(fleet)
  assert.equal(await offload.delete(UE, id, signal()), false)
  await until('its image is no longer stored', () => fleet.stored.size === 0)
  assert.ok(states.includes('deleting'))
})

test('bad applications are refused before anything is written', async (t) => {
  const fleet = await fleetIn(t, 1)
  const offload = offloadOf(fleet)
  const usage = { code: 'USAGE' }
  await assert.rejects(offload.register(UE, app([])), usage)
  await assert.rejects(offload.register(UE, app([pod('A_b')])), usage)
  await assert.rejects(offload.register(UE, app([pod('a'), pod('a')])), usage)
  await assert.rejects(offload.register(UE, app([pod('a', { ports: [70000] })])), usage)
  await assert.rejects(offload.register(UE, app([pod('a', { image: '--flag' })])), usage)
  await assert.rejects(offload.register(UE, app([pod('a', { image: 'with blank' })])), usage)
  await assert.rejects(offload.register(UE, app([pod('a')]), { id: 'short' }), usage)
  assert.deepEqual(await offload.list(UE), [])
  await assert.rejects(offload.offload(UE, '0'.repeat(32), {}), { code: 'NOT_FOUND' })
})

test('nothing fits: refused with a line for each node, and offered again later', async (t) => {
  const fleet = await fleetIn(t, 2)
  const offload = offloadOf(fleet)
  const big = app([pod('a', { cpu: 1000 })])
  const { id } = await offload.register(UE, big)
  await assert.rejects(
    offload.offload(UE, id, {}),
    (error: { code: string; details: { reasons: string[] } }) => {
      assert.equal(error.code, 'UNFIT')
      assert.match(
        error.details.reasons.join('\n'),
        /n0: a needs 1000 cores, 100 are free\nn1: a needs 1000 cores/,
      )
      return true
    },
  )
  await isState(fleet, id, 'registered')
  const answer = await offload.available(big, {})
  assert.equal(answer.fits, false)
  assert.deepEqual((await offload.available(app([pod('a')]), { within: ['peer-1'] })).nodes, ['peer-1'])
})

test('200 applications at once, the manager and a node killed in the middle: nothing is lost or doubled', async (t) => {
  const fleet = await fleetIn(t, 4)
  const specs = Array.from({ length: 200 }, (_, i) =>
    app([pod('a', { image: `lab/app${i % 5}:1` })], { name: `app${i}` }),
  )
  const ids = specs.map((_, i) => i.toString(16).padStart(32, '0'))
  let manager = offloadOf(fleet)
  const ask = async (i: number): Promise<void> => {
    await manager.register(UE, specs[i]!, { id: ids[i]! })
    await manager.offload(UE, ids[i]!, {})
  }
  // A device that gets no answer asks again; a dead server's connections break, which those of this process do not.
  const brokenOff = (): Promise<never> =>
    new Promise((_, reject) => setTimeout(() => reject(new Error('no answer')), 3000))
  const asked = specs.map(async (_, i) => {
    for (;;) {
      try {
        return await Promise.race([ask(i), brokenOff()])
      } catch {
        await new Promise((resolve) => setTimeout(resolve, 100))
      }
    }
  })
  await until('some run', () => running(fleet).length > 30)
  await fleet.nodes[0]!.kill()
  await fleet.nodes[2]!.kill()
  await fleet.nodes[2]!.start()
  await fleet.nodes[0]!.start()
  manager = offloadOf(fleet)
  await Promise.all(asked)
  await until(
    'all run',
    async () => (await manager.list(UE)).filter(({ state }) => state === 'running').length === 200,
    120e3,
  )
  assert.equal(running(fleet).length, 200)
  assert.deepEqual(fleet.doubles, [])
  const names = new Set(fleet.nodes.flatMap((node) => [...node.containers.keys()]))
  assert.equal(names.size, 200)
  const uris = (await manager.list(UE)).map(({ pods }) => pods[0]!.referenceURI)
  assert.equal(new Set(uris).size, 200, 'no port was given twice')

  for (const id of ids) manager.delete(UE, id, signal()).catch(() => false)
  await until('many are gone', () => running(fleet).length < 150)
  await fleet.nodes[0]!.kill()
  await fleet.nodes[0]!.start()
  // What was asked for before the crash goes on by itself; what was not is asked for again.
  await Promise.all(ids.map((id) => offloadOf(fleet).delete(UE, id, signal())))
  await until('all are gone', () =>
    fleet.nodes.every((node) => node.containers.size === 0 && node.networks.size === 0),
  )
  await nothingLeft(fleet)
  assert.deepEqual(await offloadOf(fleet).list(UE), [])
})

test('a node that died: its pods start elsewhere, and what it still has goes when it comes back', async (t) => {
  const fleet = await fleetIn(t, 4)
  const offload = offloadOf(fleet)
  const { id } = await offload.register(UE, app([pod('a'), pod('b'), pod('c')]))
  await offload.offload(UE, id, { within: ['peer-1', 'peer-2', 'peer-3'] })
  await isState(fleet, id, 'running')
  const lost = fleet.nodes[1]!
  assert.equal(lost.containers.size, 1)
  fleet.state(lost, 'suspect')
  await new Promise((resolve) => setTimeout(resolve, 300))
  assert.equal(lost.containers.size, 1, 'who is only suspect keeps its pods')
  assert.equal(running(fleet).length, 3)
  fleet.state(lost, 'dead')
  await until(
    'it runs elsewhere',
    () =>
      fleet.nodes
        .filter((node) => node !== lost)
        .flatMap((node) => [...node.containers.values()])
        .filter((c) => c.running).length === 3,
  )
  fleet.state(lost, 'alive')
  await until('the old one is gone', () => lost.containers.size === 0 && lost.networks.size === 0)
  assert.equal(running(fleet).length, 3)
})

test('a manager that is cut off starts nothing anew', async (t) => {
  const fleet = await fleetIn(t, 4)
  const offload = offloadOf(fleet)
  const { id } = await offload.register(UE, app([pod('a')]))
  await offload.offload(UE, id, { within: ['peer-2'] })
  await isState(fleet, id, 'running')
  for (const i of [1, 2, 3]) fleet.state(fleet.nodes[i]!, 'dead')
  await new Promise((resolve) => setTimeout(resolve, 500))
  assert.equal(fleet.nodes[0]!.containers.size, 0)
  for (const i of [1, 2, 3]) fleet.state(fleet.nodes[i]!, 'alive')
  await new Promise((resolve) => setTimeout(resolve, 500))
  assert.equal((await isState(fleet, id, 'running')).pods[0]!.peer, 'peer-2')
  assert.equal(running(fleet).length, 1)
})

test('a pod that ends is started again, one that cannot be pulled says why', async (t) => {
  const fleet = await fleetIn(t, 1)
  const offload = offloadOf(fleet)
  const [node] = fleet.nodes
  node!.broken.add('lab/bad:1')
  const bad = await offload.register(UE, app([pod('a', { image: 'lab/bad:1' })]))
  await offload.offload(UE, bad.id, {})
  const failed = await isState(fleet, bad.id, 'failed')
  assert.match(failed.pods[0]!.reason!, /lab\/bad:1 cannot be pulled/)
  node!.broken.clear()
  await isState(fleet, bad.id, 'running')
})

test('higher priority takes the place of lower, which waits and comes back when there is room', async (t) => {
  const fleet = await fleetIn(t, 1, { cpu: 1 })
  const offload = offloadOf(fleet)
  const low = await offload.register(UE, app([pod('a', { cpu: 0.8 })], { name: 'low', priority: 1 }))
  await offload.offload(UE, low.id, {})
  await isState(fleet, low.id, 'running')
  const same = await offload.register(UE, app([pod('a', { cpu: 0.8 })], { priority: 1 }))
  await assert.rejects(offload.offload(UE, same.id, {}), { code: 'UNFIT' })
  const high = await offload.register(UE, app([pod('a', { cpu: 0.8 })], { name: 'high', priority: 2 }))
  const given = await offload.offload(UE, high.id, {})
  assert.match(given.reasons.join('\n'), /instead of .*\/a of lower priority/)
  await isState(fleet, high.id, 'running')
  const put = await isState(fleet, low.id, 'failed')
  assert.match(put.reasons[0]!, /nothing fits it now/)
  await until('the lower one is gone', () => running(fleet).length === 1)
  await offload.delete(UE, high.id, signal())
  await isState(fleet, low.id, 'running')
})

test('an execution time that is over ends it; it may be offloaded again', async (t) => {
  const fleet = await fleetIn(t, 2)
  const offload = offloadOf(fleet)
  const { id } = await offload.register(UE, app([pod('a')], { executionTimeS: 0.4 }))
  await offload.offload(UE, id, {})
  await isState(fleet, id, 'running')
  const over = await isState(fleet, id, 'registered')
  assert.match(over.reasons[0]!, /execution time of 0\.4 s is over/)
  await until('it is gone', () => fleet.nodes.every((node) => node.containers.size === 0))
  await offload.offload(UE, id, {})
  await isState(fleet, id, 'running')
})

test('what fits nowhere here runs at the next manager up, and is deleted there', async (t) => {
  const fleet = await fleetIn(t, 3, {
    sites: ['edge', 'edge', 'metro'],
    next: (i) => (i === 0 ? 'n2' : undefined),
    cpu: 1,
  })
  fleet.nodes[2]!.capacity = { cpu: 64, memory: 1e12, storage: 1e12 }
  const offload = offloadOf(fleet)
  const big = app([pod('a', { cpu: 8 })])
  assert.deepEqual((await offload.available(big, {})).nodes, ['peer-2'])
  const { id } = await offload.register(UE, big)
  const given = await offload.offload(UE, id, {})
  assert.match(given.reasons.join('\n'), /nothing fits here: n2 \(metro\) was asked and took it/)
  const up = await isState(fleet, id, 'running')
  assert.equal(up.pods[0]!.node, 'n2')
  assert.equal(fleet.nodes[2]!.containers.size, 1)
  const huge = await offload.register(UE, app([pod('a', { cpu: 800 })]))
  await assert.rejects(offload.offload(UE, huge.id, {}), (error: { details: { reasons: string[] } }) => {
    assert.match(error.details.reasons.join('\n'), /n2 \(metro\) was asked, too/)
    return true
  })
  assert.equal(await offload.delete(UE, id, signal()), true)
  await nothingLeft(fleet)
  assert.deepEqual(await offloadOf(fleet, 2).list(UE), [])
})

test('a pod that outgrows its storage is stopped, says why, and stays so over a restart of its node', async (t) => {
  const fleet = await fleetIn(t, 2)
  const offload = offloadOf(fleet)
  const { id } = await offload.register(UE, app([pod('a', { storage: 1e6 }), pod('b', { storage: 0 })]))
  await offload.offload(UE, id, {})
  const { pods } = await isState(fleet, id, 'running')
  const nodeOf = (name: string) => fleet.nodes.find((one) => one.containers.has(`shoal-${id}-${name}`))!
  const [of, other] = [nodeOf('a'), nodeOf('b')]
  of.used.set(`shoal-${id}-a`, 900e3)
  // Who asked for none has no bound.
  other.used.set(`shoal-${id}-b`, 9e9)
  await new Promise((resolve) => setTimeout(resolve, 100))
  assert.equal(running(fleet).length, 2)
  of.used.set(`shoal-${id}-a`, 3 * 2 ** 20)
  const said = /^it was stopped: it had 3\.00 MiB in its writable layer, and asked for 977 KiB of storage$/
  const [stopped] = (await isState(fleet, id, 'failed')).pods
  assert.match(stopped!.reason!, said)
  assert.equal(stopped!.referenceURI, undefined)
  await until('it is gone', () => !of.containers.has(`shoal-${id}-a`) && !of.networks.has(`shoal-${id}-a`))
  const i = fleet.nodes.indexOf(of)
  await of.kill()
  await of.start()
  await until('it is known again', async () => {
    const app = await offloadOf(fleet).get(UE, id)
    return app?.state === 'failed' && said.test(app.pods[0]!.reason ?? '')
  })
  assert.equal(fleet.nodes[i]!.containers.has(`shoal-${id}-a`), false)
  assert.equal(pods.length, 2)
  await offloadOf(fleet).delete(UE, id, signal())
  await nothingLeft(fleet)
})

test('an application follows its UE with its state, and the new address is told', async (t) => {
  const fleet = await fleetIn(t, 3)
  const offload = offloadOf(fleet)
  const moves: AppMoved[] = []
  offload.onMoved((moved) => moves.push(moved))
  const { id } = await offload.register(UE, app([pod('a')], { requiredDelayMs: 0.5 }))
  await offload.offload(UE, id, { entry: 'peer-1' })
  assert.equal((await isState(fleet, id, 'running')).pods[0]!.peer, 'peer-1')
  const made = [...fleet.nodes[1]!.containers.values()][0]!.made
  await offload.moved(UE, 'peer-1')
  assert.equal(fleet.moves.length, 0, 'the delay is met')
  await offload.moved(UE, 'peer-2', () => false)
  assert.equal(fleet.moves.length, 0, 'it does not follow')
  await offload.moved(UE, 'peer-2')
  await until('it has moved', () => moves.some(({ status }) => status === 'moved'))
  assert.deepEqual(
    moves.map(({ status, from, to }) => ({ status, from, to })),
    ['moving', 'moved'].map((status) => ({ status, from: 'peer-1', to: 'peer-2' })),
  )
  const [, last] = moves
  assert.match(last!.referenceURI!, /^http:\/\/10\.0\.0\.3:3\d{4}$/)
  assert.equal(last!.app.pods[0]!.referenceURI, last!.referenceURI)
  assert.equal([...fleet.nodes[2]!.containers.values()][0]!.made, made, 'it is the same one')
  await until(
    'nothing is left at the source',
    () => fleet.nodes[1]!.networks.size === 0 && fleet.nodes[1]!.containers.size === 0,
  )
  assert.equal(running(fleet).length, 1)
  assert.deepEqual(fleet.doubles, [])
  await offload.delete(UE, id, signal())
  await nothingLeft(fleet)
})

test('a move that is refused or fails leaves the pod where it is', async (t) => {
  const fleet = await fleetIn(t, 3)
  const offload = offloadOf(fleet)
  const moves: string[] = []
  offload.onMoved(({ status }) => moves.push(status))
  const { id } = await offload.register(UE, app([pod('a')], { requiredDelayMs: 0.5 }))
  await offload.offload(UE, id, { entry: 'peer-1' })
  await isState(fleet, id, 'running')
  fleet.migration.refuse = 'no CRIU'
  await offload.moved(UE, 'peer-2')
  assert.match((await offload.get(UE, id))!.reasons[0]!, /a stays where it is: no CRIU/)
  delete fleet.migration.refuse
  fleet.migration.fail = 'the health check failed'
  await offload.moved(UE, 'peer-2')
  await until('it is told', () => moves.includes('failed'))
  await until('nothing is at the target', () => fleet.nodes[2]!.networks.size === 0)
  const stays = await isState(fleet, id, 'running')
  assert.equal(stays.pods[0]!.peer, 'peer-1')
  assert.equal(running(fleet).length, 1)
})

test('deleted while it is being offloaded, moved or handed up: nothing is left, and it does not come back', async (t) => {
  const fleet = await fleetIn(t, 3, {
    sites: ['edge', 'edge', 'metro'],
    next: (i) => (i === 0 ? 'n2' : undefined),
  })
  const offload = offloadOf(fleet)
  for (const cpu of [0.1, 1000]) {
    for (const waitMs of [0, 5, 15, 40]) {
      if (cpu > 1) fleet.nodes[2]!.capacity = { cpu: 5000, memory: 1e12, storage: 1e12 }
      const { id } = await offload.register(
        UE,
        app([pod('a', { cpu })], { requiredDelayMs: cpu > 1 ? undefined : 0.5 }),
      )
      const asked = offload.offload(UE, id, { entry: 'peer-0' }).catch(() => undefined)
      await new Promise((resolve) => setTimeout(resolve, waitMs))
      const moved = offload.moved(UE, 'peer-1')
      assert.equal(await offload.delete(UE, id, signal()), true)
      await Promise.all([asked, moved])
      assert.equal(await offload.get(UE, id), undefined)
    }
  }
  await until('nothing is left', () =>
    fleet.nodes.every((node) => node.containers.size === 0 && node.networks.size === 0),
  )
  await fleet.nodes[0]!.kill()
  await fleet.nodes[0]!.start()
  assert.deepEqual(await offloadOf(fleet).list(UE), [])
  assert.deepEqual(await offloadOf(fleet, 2).list(UE), [])
  await nothingLeft(fleet)
})
