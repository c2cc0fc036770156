import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { parseApp } from '../../integration/mec/app-body.ts'
import { assertProblem, notification } from './mec-schemas.ts'
import { APP, contextOf, createAsk, createMecCluster, startReceiver, until } from './mec-tools.ts'

describe('a cluster', () => {
  test('every node lets a device in, and its home does what it asks', async (t) => {
    const cluster = createMecCluster(t, ['edge-1', 'edge-2'])
    const home = await cluster.start('edge-1')
    const other = await cluster.start('edge-2')
    const { token } = await home.mec.tokens.create('ue-1')
    // A second token, made elsewhere, leads to the same home.
    const second = await other.mec.tokens.create('ue-1')
    const here = home.ask(token)
    const there = other.ask(second.token)

    const { status, headers, body } = await there('POST', '/mec/v1/apps', APP)
    assert.equal(status, 201)
    assert.equal(headers.get('location'), `${other.base}/mec/v1/apps/${body.id}`)
    assert.equal(home.offload.apps.size, 1)
    assert.equal(other.offload.apps.size, 0)
    assert.deepEqual((await here('GET', '/mec/v1/apps')).body, (await there('GET', '/mec/v1/apps')).body)
    const wrong = assertProblem(await there('POST', '/mec/v1/apps', { ...APP, name: 'x'.repeat(33) }), 400)
    assert.deepEqual(
      (wrong.errors as { field: string }[]).map(({ field }) => field),
      ['name'],
    )
    assertProblem(await there('GET', '/mec/v1/apps/nobody'), 404)
    assertProblem(await createAsk(other.base, 'x.y')('GET', '/mec/v1/apps'), 401)

    assert.equal(await home.mec.tokens.revoke(second.id), 1)
    assertProblem(await there('GET', '/mec/v1/apps'), 401)
  })

  test('a device that is seen at another node has moved there', async (t) => {
    const cluster = createMecCluster(t, ['edge-1', 'edge-2'])
    const home = await cluster.start('edge-1')
    const other = await cluster.start('edge-2')
    const { token } = await home.mec.tokens.create('ue-1')
    await home.ask(token)('GET', '/mec/v1/apps')
    const { body } = await other.ask(token)('GET', '/mec/v1/location')
    assert.deepEqual([body.node, body.by], ['edge-2', 'request'])
    await until('its applications follow', () => home.offload.moves.at(-1)?.entry === cluster.members[1]?.id)
  })

  test('events at another node than the home', async (t) => {
    const cluster = createMecCluster(t, ['edge-1', 'edge-2'])
    const home = await cluster.start('edge-1')
    const other = await cluster.start('edge-2')
    const { token } = await home.mec.tokens.create('ue-1')
    const ue = other.ask(token)
    const { body } = await ue('POST', '/mec/v1/apps', APP)
    const res = await fetch(`${other.base}/mec/v1/apps/${body.id}/events`, {
      headers: { Authorization: `Bearer ${token}` },
    })
    assert.equal(res.status, 200)
    await ue('POST', `/mec/v1/apps/${body.id}/offload`)
    await until('it runs', async () => (await ue('GET', `/mec/v1/apps/${body.id}`)).body.state === 'running')
    await ue('DELETE', `/mec/v1/apps/${body.id}`)
    const text = await res.text()
    for (const state of ['starting', 'running', 'deleting'])
      assert.match(text, new RegExp(`"state":"${state}"`))
    assert.match(text, /event: deleted\n/)
    assertProblem(await ue('GET', `/mec/v1/apps/${body.id}/events`), 404)
  })

  test('loopback at one node is not that of another', async (t) => {
    const cluster = createMecCluster(t, ['edge-1', 'edge-2'])
    const home = await cluster.start('edge-1')
    const other = await cluster.start('edge-2')
    const { token } = await home.mec.tokens.create('ue-1')
    const device = await startReceiver(t)
    const { body } = await home.ask(token)('POST', '/mec/v1/apps', APP)
    const asked = contextOf(body.id, { callbackReference: device.url() })
    const problem = assertProblem(await other.ask(token)('POST', '/dev_app/v1/app_contexts', asked), 400)
    assert.match(problem.detail, /callbackReference/)
  })

  test('a home that is away', async (t) => {
    const cluster = createMecCluster(t, ['edge-1', 'edge-2'])
    const home = await cluster.start('edge-1')
    const other = await cluster.start('edge-2')
    const { token } = await home.mec.tokens.create('ue-1')
    cluster.rpc.dead.add(cluster.members[0]!.id)
    const answer = await other.ask(token)('GET', '/mec/v1/apps')
    assert.match(assertProblem(answer, 503).detail, /node edge-1, which keeps what this device has, is away/)
    assert.equal(answer.headers.get('retry-after'), '1')
  })
})

test('a home that is lost: the device starts anew, and what it had goes when the old one comes back', async (t) => {
  const cluster = createMecCluster(t, ['edge-1', 'edge-2'])
  const lost = await cluster.start('edge-1')
  const other = await cluster.start('edge-2')
  const first = lost.ask((await lost.mec.tokens.create('ue-1')).token)
  const { body } = await first('POST', '/mec/v1/apps', APP)
  await first('POST', '/dev_app/v1/app_contexts', contextOf(body.id))
  assert.equal(lost.offload.apps.size, 2)
  await lost.stop()
  const [member] = cluster.members
  member!.state = 'dead'

  // While it has a token, somebody may still count on its home.
  const second = other.ask((await other.mec.tokens.create('ue-1')).token)
  cluster.rpc.dead.add(member!.id)
  assertProblem(await second('GET', '/mec/v1/apps'), 503)
  await other.mec.tokens.revoke('ue-1')
  const third = other.ask((await other.mec.tokens.create('ue-1')).token)
  assert.deepEqual((await third('GET', '/mec/v1/apps')).body, [])
  assert.equal((await third('POST', '/mec/v1/apps', APP)).status, 201)

  member!.state = 'alive'
  cluster.rpc.dead.clear()
  const back = await cluster.start('edge-1')
  await until('the old home has let go', () => lost.offload.apps.size === 0)
  // What the next manager runs for a device whose home it is not is none of that.
  await back.stop()
  const given = await lost.offload.register('ue-1', parseApp(APP))
  await (await cluster.start('edge-1')).stop()
  assert.ok(lost.offload.apps.has(given.id))
  assert.equal((await third('GET', '/mec/v1/apps')).body.length, 1)
})

describe('restarts', () => {
  test('contexts, registrations, subscriptions and what was not told yet outlive the daemon', async (t) => {
    const cluster = createMecCluster(t)
    const first = await cluster.start('edge-1')
    const device = await startReceiver(t, (res) => res.writeHead(down ? 500 : 204).end())
    let down = true
    const { token } = await first.mec.tokens.create('ue-1')
    const ue = first.ask(token)
    const { body: app } = await ue('POST', '/mec/v1/apps', APP)
    const { body: context } = await ue(
      'POST',
      '/dev_app/v1/app_contexts',
      contextOf(app.id, { callbackReference: device.url() }),
    )
    const { body: service } = await ue('POST', '/amsi/v1/app_mobility_services', {
      serviceConsumerId: { mepId: 'a' },
    })
    const { body: subscription } = await ue('POST', '/amsi/v1/subscriptions', {
      subscriptionType: 'MobilityProcedureSubscription',
      callbackReference: device.url(),
      filterCriteria: {},
    })
    await until('it is tried', () => device.got.length > 0)
    await first.stop()
    down = false
    device.got.length = 0

    const second = await cluster.start('edge-1')
    const again = second.ask(token)
    notification.parse((await device.next('ApplicationContextUpdateNotification')).body)
    const path = `/amsi/v1/app_mobility_services/${service.appMobilityServiceId}`
    assert.deepEqual((await again('GET', path)).body, service)
    const at = new URL(subscription._links.self.href).pathname
    assert.deepEqual((await again('GET', at)).body, subscription)
    assert.equal((await again('GET', '/mec/v1/location')).body.node, 'edge-1')
    assert.equal((await again('DELETE', `/dev_app/v1/app_contexts/${context.contextId}`)).status, 204)
    assert.equal(second.offload.apps.size, 1)
  })

  test('what ended or moved while nobody listened is told afterwards', async (t) => {
    const cluster = createMecCluster(t)
    const first = await cluster.start('edge-1')
    const device = await startReceiver(t)
    const { token } = await first.mec.tokens.create('ue-1')
    const ue = first.ask(token)
    const { body: app } = await ue('POST', '/mec/v1/apps', APP)
    const ids: string[] = []
    for (const path of ['/ends', '/moves']) {
      const asked = contextOf(app.id, { callbackReference: device.url(path) })
      ids.push((await ue('POST', '/dev_app/v1/app_contexts', asked)).body.contextId)
    }
    await device.next('ApplicationContextUpdateNotification', 2)
    const apps = (await ue('GET', '/mec/v1/apps')).body as { id: string; contextId?: string }[]
    const [ends, moves] = ids.map((id) => apps.find(({ contextId }) => contextId === id)?.id ?? '')
    await first.stop()
    first.offload.apps.delete(ends!)
    const pod = first.offload.apps.get(moves!)!.pods[0]!
    pod.referenceURI = 'http://10.0.0.9:80'
    await cluster.start('edge-1')
    assert.equal((await device.next('ApplicationContextDeleteNotification')).path, '/ends')
    const { body, path } = await device.next('AddressChangeNotification')
    assert.deepEqual([path, body.referenceURI], ['/moves', 'http://10.0.0.9:80'])
  })

  test('a context whose device got no answer is not wanted', async (t) => {
    const cluster = createMecCluster(t)
    const first = await cluster.start('edge-1')
    const { token } = await first.mec.tokens.create('ue-1')
    const ue = first.ask(token)
    const { body: app } = await ue('POST', '/mec/v1/apps', APP)
    first.offload.startMs = 60_000
    const lost = ue('POST', '/dev_app/v1/app_contexts', contextOf(app.id)).catch(() => undefined)
    await until('it is being started', () => first.offload.apps.size === 2)
    await first.stop()
    await lost
    const second = await cluster.start('edge-1')
    await until('nothing is left of it', () => second.offload.apps.size === 1)
    assert.equal((await second.ask(token)('GET', '/mec/v1/apps')).body.length, 1)
  })
})

test('200 devices at once: nothing lost, nothing doubled', async (t) => {
  const cluster = createMecCluster(t, ['edge-1', 'edge-2'])
  const home = await cluster.start('edge-1')
  const other = await cluster.start('edge-2')
  const device = await startReceiver(t)
  const tokens = []
  for (let i = 0; i < 200; i++) tokens.push((await home.mec.tokens.create(`ue-${i}`)).token)
  const done = await Promise.all(
    tokens.map(async (token, i) => {
      const ue = (i % 2 === 0 ? home : other).ask(token)
      const { status, body } = await ue('POST', '/mec/v1/apps', { ...APP, name: `app-${i}` })
      assert.equal(status, 201)
      assert.equal((await ue('POST', `/mec/v1/apps/${body.id}/offload`)).status, 202)
      if (i % 2 === 0) {
        const asked = contextOf(body.id, { callbackReference: device.url(`/${i}`) })
        assert.equal((await ue('POST', '/dev_app/v1/app_contexts', asked)).status, 201)
      }
      await until(`${i} runs`, () => home.offload.apps.get(body.id)?.state === 'running')
      return (await ue('GET', '/mec/v1/apps')).body.length
    }),
  )
  assert.deepEqual(
    done,
    tokens.map((_, i) => (i % 2 === 0 ? 2 : 1)),
  )
  assert.equal(home.offload.apps.size, 300)
  assert.equal(home.offload.calls.register, 300)
  await until('all are told', () => device.got.length >= 100)
  assert.equal(new Set(device.got.map(({ path }) => path)).size, 100)
  assert.equal(device.got.length, 100)
})
