import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { z } from 'zod'
import {
  adjacentAppInstanceInfo,
  anySubscription,
  assertProblem,
  notification,
  registrationInfo,
  subscriptionLinkList,
} from './mec-schemas.ts'
import { APP, type Ask, createMecCluster, startMec, startReceiver, until } from './mec-tools.ts'

const SERVICES = '/amsi/v1/app_mobility_services'
const SUBSCRIPTIONS = '/amsi/v1/subscriptions'
const UE_ADDRESS = { type: 'UE_IPv4_ADDRESS', value: '10.1.0.7' } as const

/** An application that runs, and its one instance. */
async function running(ue: Ask): Promise<{ id: string; appInstanceId: string }> {
  const { body } = await ue('POST', '/mec/v1/apps', APP)
  await ue('POST', `/mec/v1/apps/${body.id}/offload`)
  await until('it runs', async () => (await ue('GET', `/mec/v1/apps/${body.id}`)).body.state === 'running')
  return { id: body.id, appInstanceId: `${body.id}.web` }
}

const registrationOf = (appInstanceId: string, level?: string) => ({
  serviceConsumerId: { appInstanceId },
  deviceInformation: [{ associateId: UE_ADDRESS, ...(level ? { appMobilityServiceLevel: level } : {}) }],
})

describe('ETSI MEC 021: registrations', () => {
  test('made, read, listed, replaced and ended, by DELETE and by the task', async (t) => {
    const { ue, base } = await startMec(t)
    const asked = { ...registrationOf('app-1', 'APP_MOBILITY_WITHOUT_CONFIRMATION'), expiryTime: 0 }
    const made = await ue('POST', SERVICES, asked)
    assert.equal(made.status, 201)
    const { appMobilityServiceId: id, ...rest } = registrationInfo.parse(made.body)
    assert.deepEqual(rest, asked)
    assert.equal(made.headers.get('location'), `${base}${SERVICES}/${id}`)
    assert.deepEqual((await ue('GET', `${SERVICES}/${id}`)).body, made.body)

    const replaced = await ue('PUT', `${SERVICES}/${id}`, { ...made.body, expiryTime: 3600 })
    assert.equal(replaced.status, 200)
    assert.equal(registrationInfo.parse(replaced.body).expiryTime, 3600)
    assertProblem(await ue('PUT', `${SERVICES}/${id}`, { ...made.body, appMobilityServiceId: 'x' }), 400)

    const platform = await ue('POST', SERVICES, { serviceConsumerId: { mepId: 'mep-1' } })
    registrationInfo.parse(platform.body)
    assert.equal(z.array(registrationInfo).parse((await ue('GET', SERVICES)).body).length, 2)

    assert.equal((await ue('DELETE', `${SERVICES}/${id}`)).status, 204)
    assertProblem(await ue('DELETE', `${SERVICES}/${id}`), 404)
    const task = `${SERVICES}/${platform.body.appMobilityServiceId}/deregister_task`
    assert.equal((await ue('POST', task)).status, 204)
    assertProblem(await ue('POST', task), 404)
    assert.deepEqual((await ue('GET', SERVICES)).body, [])
  })

  test('filters and selections of ETSI MEC 009', async (t) => {
    const { ue } = await startMec(t)
    await ue('POST', SERVICES, { ...registrationOf('app-1'), expiryTime: 10 })
    await ue('POST', SERVICES, { serviceConsumerId: { mepId: "mep 'one', two" }, expiryTime: 100 })
    const found = async (query: string): Promise<string[]> => {
      const { status, body } = await ue('GET', `${SERVICES}?${query}`)
      assert.equal(status, 200, query)
      return z
        .array(registrationInfo)
        .parse(body)
        .map(({ serviceConsumerId: id }) => ('mepId' in id ? 'mep' : 'app'))
    }
    const filter = (text: string) => found(`filter=${encodeURIComponent(text)}`)
    assert.deepEqual(await filter('(eq,serviceConsumerId/appInstanceId,app-1)'), ['app'])
    assert.deepEqual(await filter('(neq,serviceConsumerId/appInstanceId,app-1)'), ['mep'])
    assert.deepEqual(await filter("(eq,serviceConsumerId/mepId,'mep ''one'', two')"), ['mep'])
    assert.deepEqual(await filter('(gt,expiryTime,9);(lt,expiryTime,50)'), ['app'])
    assert.deepEqual(await filter('(in,deviceInformation/associateId/value,10.1.0.7,10.1.0.8)'), ['app'])
    assert.deepEqual(await filter('(cont,serviceConsumerId/mepId,one)'), ['mep'])
    assert.equal(
      (await ue('GET', `${SERVICES}?exclude_fields=deviceInformation`)).body[0].deviceInformation,
      undefined,
    )
    assert.equal((await ue('GET', `${SERVICES}?fields=expiryTime`)).body[0].deviceInformation, undefined)
    assert.ok((await ue('GET', `${SERVICES}?all_fields`)).body[0].deviceInformation)
    for (const wrong of [
      'filter=(eq,a)',
      'filter=x',
      'filter=(is,a,b)',
      "filter=(eq,a,'b)",
      'fields=a&exclude_fields=b',
      'fields=-',
      'some=1',
    ]) {
      assertProblem(await ue('GET', `${SERVICES}?${wrong}`), 400)
    }
  })

  test('a registration ends by itself', async (t) => {
    const { ue } = await startMec(t)
    await ue('POST', SERVICES, { ...registrationOf('app-1'), expiryTime: 1 })
    await until('it is over', async () => (await ue('GET', SERVICES)).body.length === 0)
  })

  test('what is no registration', async (t) => {
    const { ue } = await startMec(t)
    const wrong: [string, object][] = [
      ['serviceConsumerId', {}],
      ['serviceConsumerId', { serviceConsumerId: {} }],
      ['serviceConsumerId', { serviceConsumerId: { appInstanceId: 'a', mepId: 'b' } }],
      ['appMobilityServiceId', { ...registrationOf('a'), appMobilityServiceId: 'mine' }],
      ['expiryTime', { ...registrationOf('a'), expiryTime: -1 }],
      ['deviceInformation[0].associateId', { ...registrationOf('a'), deviceInformation: [{}] }],
      [
        'deviceInformation[0].associateId.type',
        { ...registrationOf('a'), deviceInformation: [{ associateId: { type: 1, value: 'x' } }] },
      ],
      [
        'deviceInformation[0].appMobilityServiceLevel',
        {
          ...registrationOf('a'),
          deviceInformation: [{ associateId: UE_ADDRESS, appMobilityServiceLevel: 'NO' }],
        },
      ],
    ]
    for (const [field, body] of wrong) {
      const { errors } = assertProblem(await ue('POST', SERVICES, body), 400)
      assert.deepEqual(
        (errors as { field: string }[]).map((error) => error.field),
        [field],
      )
    }
  })
})

describe('ETSI MEC 021: subscriptions', () => {
  const asked = (callbackReference: string, over: object = {}) => ({
    subscriptionType: 'MobilityProcedureSubscription',
    callbackReference,
    filterCriteria: {},
    ...over,
  })

  test('made, read, listed, replaced and ended', async (t) => {
    const { ue, base } = await startMec(t)
    const device = await startReceiver(t)
    const made = await ue('POST', SUBSCRIPTIONS, asked(device.url()))
    assert.equal(made.status, 201)
    const subscription = anySubscription.parse(made.body)
    const { href } = subscription._links.self
    assert.equal(made.headers.get('location'), href)
    // Who names no status gets the first, and is told.
    assert.deepEqual(subscription.filterCriteria, { mobilityStatus: ['INTERHOST_MOVEOUT_TRIGGERED'] })
    const path = href.slice(base.length)
    assert.deepEqual((await ue('GET', path)).body, made.body)

    const adjacent = await ue('POST', SUBSCRIPTIONS, {
      subscriptionType: 'AdjacentAppInfoSubscription',
      callbackReference: device.url(),
      filterCriteria: { appInstanceId: 'app-1' },
    })
    anySubscription.parse(adjacent.body)
    const list = subscriptionLinkList.parse((await ue('GET', SUBSCRIPTIONS)).body)
    assert.equal(list._links.self.href, base + SUBSCRIPTIONS)
    assert.equal(list._links.subscription?.length, 2)
    for (const [query, count] of [
      ['mobility_proc', 1],
      ['adj_app_info', 1],
    ] as const) {
      const some = await ue('GET', `${SUBSCRIPTIONS}?subscriptionType=${query}`)
      assert.equal(subscriptionLinkList.parse(some.body)._links.subscription?.length, count)
    }
    assertProblem(await ue('GET', `${SUBSCRIPTIONS}?subscriptionType=all`), 400)

    const all = ['INTERHOST_MOVEOUT_TRIGGERED', 'INTERHOST_MOVEOUT_COMPLETED', 'INTERHOST_MOVEOUT_FAILED']
    const replaced = await ue('PUT', path, { ...made.body, filterCriteria: { mobilityStatus: all } })
    assert.equal(replaced.status, 200)
    assert.deepEqual(anySubscription.parse(replaced.body).filterCriteria, { mobilityStatus: all })
    assertProblem(await ue('PUT', path, { ...adjacent.body }), 400)

    assert.equal((await ue('DELETE', path)).status, 204)
    assertProblem(await ue('GET', path), 404)
    assertProblem(await ue('DELETE', path), 404)
  })

  test('a test notification, and a deadline: told ahead, then over', async (t) => {
    const { ue } = await startMec(t)
    const device = await startReceiver(t)
    const seconds = Math.floor(Date.now() / 1000) + 2
    const made = await ue(
      'POST',
      SUBSCRIPTIONS,
      asked(device.url(), { requestTestNotification: true, expiryDeadline: { seconds, nanoSeconds: 0 } }),
    )
    const subscription = anySubscription.parse(made.body)
    const hello = notification.parse((await device.next('TestNotification')).body)
    assert.ok('_links' in hello)
    assert.deepEqual(hello._links.subscription, subscription._links.self)
    const over = notification.parse((await device.next('ExpiryNotification')).body)
    assert.ok(over.notificationType === 'ExpiryNotification')
    assert.deepEqual(over.expiryDeadline, { seconds, nanoSeconds: 0 })
    await until('it is over', async () => {
      const { body } = await ue('GET', SUBSCRIPTIONS)
      return body._links.subscription.length === 0
    })
    assert.equal(device.got.length, 2)
    assertProblem(
      await ue(
        'POST',
        SUBSCRIPTIONS,
        asked(device.url(), { expiryDeadline: { seconds: 1, nanoSeconds: 0 } }),
      ),
      400,
    )
  })

  test('what cannot be had', async (t) => {
    const { ue } = await startMec(t)
    const websocket = { websockNotifConfig: { requestWebsocketUri: true } }
    assertProblem(
      await ue('POST', SUBSCRIPTIONS, { ...asked('x'), callbackReference: undefined, ...websocket }),
      422,
    )
    for (const wrong of [
      asked('http://a/', { subscriptionType: 'Other' }),
      asked('http://a/', { filterCriteria: undefined }),
      asked('http://a/', { filterCriteria: { mobilityStatus: ['MOVED'] } }),
      asked('mailto:a@example.com'),
      asked('http://169.254.169.254/'),
    ]) {
      assertProblem(await ue('POST', SUBSCRIPTIONS, wrong), 400)
    }
  })

  test('migrations are told as they begin, end and fail; who asks for one instance hears of that', async (t) => {
    const { ue, offload } = await startMec(t)
    const device = await startReceiver(t)
    const app = await running(ue)
    const other = await running(ue)
    const registered = await ue('POST', SERVICES, registrationOf(app.appInstanceId))
    const mobilityStatus = [
      'INTERHOST_MOVEOUT_TRIGGERED',
      'INTERHOST_MOVEOUT_COMPLETED',
      'INTERHOST_MOVEOUT_FAILED',
    ]
    const { appInstanceId } = app
    await ue(
      'POST',
      SUBSCRIPTIONS,
      asked(device.url('/one'), { filterCriteria: { appInstanceId, mobilityStatus } }),
    )
    await ue('POST', SUBSCRIPTIONS, asked(device.url('/first')))
    await ue(
      'POST',
      SUBSCRIPTIONS,
      asked(device.url('/nobody'), {
        filterCriteria: { mobilityStatus, associateId: [{ type: 'UE_IPv4_ADDRESS', value: '10.9.9.9' }] },
      }),
    )
    const here = offload.room[0]!
    offload.move(app.id, 'web', here, 'moving')
    offload.move(app.id, 'web', here, 'moved')
    offload.move(other.id, 'web', here, 'moving')
    offload.move(app.id, 'web', here, 'failed')
    const seen = (path: string) =>
      device.got.filter((one) => one.path === path).map(({ body }) => notification.parse(body))
    await until('all are told', () => seen('/one').length === 3 && seen('/first').length === 2)
    assert.deepEqual(
      seen('/one').map((one) => 'mobilityStatus' in one && one.mobilityStatus),
      mobilityStatus,
    )
    const [, done] = seen('/one')
    assert.ok(done?.notificationType === 'MobilityProcedureNotification')
    assert.deepEqual(done.associateId, [UE_ADDRESS])
    assert.equal(done.targetAppInfo?.appInstanceId, appInstanceId)
    assert.equal(done.targetAppInfo?.commInterface?.ipAddresses[0]?.host, '10.0.0.1')
    assert.equal(seen('/nobody').length, 0)
    const { body } = await ue('GET', `${SERVICES}/${registered.body.appMobilityServiceId}`)
    assert.equal(body.deviceInformation[0].contextTransferState, 'USER_CONTEXT_TRANSFER_COMPLETED')
  })

  test('adjacent instances are found, and told when they change', async (t) => {
    const cluster = createMecCluster(t, ['edge-1', 'edge-2'])
    const node = await cluster.start('edge-1')
    const ue = await node.device('ue-1')
    const device = await startReceiver(t)
    const { body: own } = await ue('POST', '/mec/v1/apps', APP)
    const [first, second] = cluster.members.map(({ id }) => id)
    const place = async (peer: string): Promise<string> => {
      node.offload.room = [peer]
      const { status, body } = await ue('POST', '/dev_app/v1/app_contexts', {
        associateDevAppId: 'dev',
        appInfo: {
          appDId: own.id,
          appName: 'counter',
          appProvider: 'ue-1',
          appDVersion: '1.0',
          userAppInstanceInfo: [{}],
        },
      })
      assert.equal(status, 201)
      return body.appInfo.userAppInstanceInfo[0].appInstanceId
    }
    const appInstanceId = await place(first!)
    await ue('POST', SERVICES, registrationOf(appInstanceId))
    await ue('POST', SUBSCRIPTIONS, {
      subscriptionType: 'AdjacentAppInfoSubscription',
      callbackReference: device.url(),
      filterCriteria: { appInstanceId },
    })
    const beside = await place(second!)
    const told = notification.parse((await device.next('AdjacentAppInfoNotification')).body)
    assert.ok(told.notificationType === 'AdjacentAppInfoNotification')
    assert.deepEqual(
      told.adjacentAppInfo?.map((one) => one.appInstanceId),
      [beside],
    )

    const { body } = await ue('GET', '/amsi/v1/queries/adjacent_app_instances')
    const [found] = z.array(adjacentAppInstanceInfo).parse(body)
    assert.deepEqual(
      [found?.appInstanceId, found?.appDId, found?.registeredInstanceId, found?.mecHostInformation?.hostName],
      [beside, own.id, appInstanceId, 'edge-2'],
    )
    const none = await ue('GET', '/amsi/v1/queries/adjacent_app_instances?filter=(eq,appDId,other)')
    assert.deepEqual(none.body, [])
  })

  test("another device's are none", async (t) => {
    const node = await startMec(t)
    const other = await node.device('ue-2')
    const service = await node.ue('POST', SERVICES, registrationOf('a'))
    const subscription = await node.ue('POST', SUBSCRIPTIONS, asked('http://10.0.0.9/'))
    const paths = [
      `${SERVICES}/${service.body.appMobilityServiceId}`,
      subscription.body._links.self.href.slice(node.base.length),
    ]
    for (const [i, path] of paths.entries()) {
      assertProblem(await other('GET', path), 404)
      assertProblem(await other('DELETE', path), 404)
      assertProblem(await other('PUT', path, i === 0 ? registrationOf('a') : asked('http://10.0.0.9/')), 404)
    }
    assert.deepEqual((await other('GET', SERVICES)).body, [])
  })
})

describe('devices that move', () => {
  test('the report of another node moves what may move, a request at the same node nothing', async (t) => {
    const cluster = createMecCluster(t, ['edge-1', 'edge-2'])
    const node = await cluster.start('edge-1')
    const ue = await node.device('ue-1')
    const app = await running(ue)
    const [first, second] = cluster.members.map(({ id }) => id)
    await until('it is seen', () => node.offload.moves.length === 1)
    assert.equal(node.offload.moves[0]?.entry, first)
    assert.equal((await ue('GET', '/mec/v1/location')).body.node, 'edge-1')

    const answer = await ue('PUT', '/mec/v1/location', { node: 'edge-2' })
    assert.deepEqual([answer.status, answer.body.node, answer.body.peer], [200, 'edge-2', second])
    await until('it follows', () => node.offload.moves.length === 2)
    assert.deepEqual(node.offload.moves[1], { owner: 'ue-1', entry: second, apps: [app.id] })
    // It goes on using the node that it knows.
    await ue('GET', '/mec/v1/apps')
    assert.equal((await ue('GET', '/mec/v1/location')).body.node, 'edge-2')
    await ue('PUT', '/mec/v1/location', { node: second })
    assert.equal(node.offload.moves.length, 2)
    for (const wrong of [{}, { node: 7 }, { node: 'nobody' }, { node: 'edge-1', at: 1 }]) {
      assertProblem(await ue('PUT', '/mec/v1/location', wrong), 400)
    }
  })

  test('contexts follow that asked for it; who must not move stays; who wants to be asked is', async (t) => {
    const cluster = createMecCluster(t, ['edge-1', 'edge-2'])
    const node = await cluster.start('edge-1')
    const ue = await node.device('ue-1')
    const device = await startReceiver(t)
    const { body: own } = await ue('POST', '/mec/v1/apps', APP)
    const place = async (over: object): Promise<string> => {
      const { body } = await ue('POST', '/dev_app/v1/app_contexts', {
        associateDevAppId: 'dev',
        appInfo: {
          appDId: own.id,
          appName: 'counter',
          appProvider: 'ue-1',
          appDVersion: '1.0',
          userAppInstanceInfo: [{}],
        },
        ...over,
      })
      return body.appInfo.userAppInstanceInfo[0].appInstanceId
    }
    await place({})
    const free = await place({ appLocationUpdates: true })
    const fixed = await place({ appLocationUpdates: true })
    const careful = await place({ appLocationUpdates: true })
    await ue('POST', SERVICES, registrationOf(fixed, 'APP_MOBILITY_NOT_ALLOWED'))
    const { body: asked } = await ue(
      'POST',
      SERVICES,
      registrationOf(careful, 'APP_MOBILITY_WITH_CONFIRMATION'),
    )
    await ue('POST', SUBSCRIPTIONS, {
      subscriptionType: 'MobilityProcedureSubscription',
      callbackReference: device.url(),
      filterCriteria: {},
    })
    const before = node.offload.moves.length
    await ue('PUT', '/mec/v1/location', { node: 'edge-2' })
    await until('they follow', () => node.offload.moves.length > before)
    const idOf = (instance: string) => instance.split('.')[0]!
    assert.deepEqual(node.offload.moves.at(-1)?.apps.sort(), [own.id, idOf(free)].sort())

    const question = notification.parse((await device.next('MobilityProcedureNotification')).body)
    assert.ok(question.notificationType === 'MobilityProcedureNotification')
    assert.equal(question.targetAppInfo?.appInstanceId, careful)
    await ue('PUT', `${SERVICES}/${asked.appMobilityServiceId}`, {
      ...asked,
      deviceInformation: [
        { ...asked.deviceInformation[0], contextTransferState: 'USER_CONTEXT_TRANSFER_COMPLETED' },
      ],
    })
    await until('it follows', () => node.offload.moves.at(-1)?.apps.includes(idOf(careful)))
  })
})
