import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import {
  appContext,
  applicationList,
  applicationLocationAvailability,
  assertProblem,
  notification,
} from './mec-schemas.ts'
import { APP, type Ask, contextOf, createMecCluster, startMec, startReceiver, until } from './mec-tools.ts'

const CONTEXTS = '/dev_app/v1/app_contexts'

async function register(ue: Ask, app: object = APP): Promise<string> {
  const { status, body } = await ue('POST', '/mec/v1/apps', app)
  assert.equal(status, 201)
  return body.id
}

describe('ETSI MEC 016: the application list', () => {
  const OFFER = {
    appName: 'detector',
    appProvider: 'plant',
    appSoftVersion: '2.1',
    appDVersion: '1.0',
    appDescription: 'Finds what is on the belt',
    vendorId: 'vendor-1',
    serviceCont: true,
    application: { ...APP, name: 'detector' },
  }

  test('own applications and those that the site offers', async (t) => {
    const node = await startMec(t)
    const id = await register(node.ue)
    const offer = await node.mec.offers.add(OFFER)
    await node.mec.offers.add({ ...OFFER, appName: 'secret', devices: ['ue-2'] })
    const { status, body } = await node.ue('GET', '/dev_app/v1/app_list')
    assert.equal(status, 200)
    const { appList } = applicationList.parse(body)
    assert.deepEqual(
      appList?.map(({ appInfo }) => appInfo.appDId),
      [offer.appDId, id],
    )
    const [offered] = appList!
    assert.deepEqual(offered?.vendorSpecificExt, { vendorId: 'vendor-1' })
    assert.deepEqual(offered?.appInfo.appCharcs, { memory: 64, storage: 100, latency: 20, serviceCont: 1 })
    assert.deepEqual(offered?.appInfo.appLocation, [
      { countryCode: 'ZZ', civicAddressElement: [{ caType: 23, caValue: 'plant' }] },
    ])

    const other = await node.device('ue-2')
    const names = applicationList
      .parse((await other('GET', '/dev_app/v1/app_list')).body)
      .appList?.map(({ appInfo }) => appInfo.appName)
    assert.deepEqual(names?.sort(), ['detector', 'secret'])
  })

  test('every filter, alone and together', async (t) => {
    const node = await startMec(t)
    await register(node.ue)
    await node.mec.offers.add(OFFER)
    await node.mec.offers.add({
      ...OFFER,
      appName: 'other',
      appSoftVersion: '3',
      vendorId: 'vendor-2',
      serviceCont: false,
    })
    const names = async (query: string): Promise<string[]> => {
      const { status, body } = await node.ue('GET', `/dev_app/v1/app_list?${query}`)
      assert.equal(status, 200, query)
      return (applicationList.parse(body).appList ?? []).map(({ appInfo }) => appInfo.appName).sort()
    }
    assert.deepEqual(await names(''), ['counter', 'detector', 'other'])
    assert.deepEqual(await names('appName=detector'), ['detector'])
    assert.deepEqual(await names('appName=detector&appName=counter'), ['counter', 'detector'])
    assert.deepEqual(await names('appProvider=plant'), ['detector', 'other'])
    assert.deepEqual(await names('appSoftVersion=3'), ['other'])
    assert.deepEqual(await names('vendorId=vendor-1'), ['detector'])
    assert.deepEqual(await names('serviceCont=1'), ['detector'])
    assert.deepEqual(await names('serviceCont=0'), ['counter', 'other'])
    assert.deepEqual(await names('appProvider=plant&serviceCont=0&vendorId=vendor-2'), ['other'])
    assert.deepEqual(await names('appName=nobody'), [])
    for (const wrong of [
      'serviceCont=2',
      'serviceCont=0&serviceCont=1',
      `appName=${'x'.repeat(33)}`,
      'name=counter',
    ]) {
      assertProblem(await node.ue('GET', `/dev_app/v1/app_list?${wrong}`), 400)
    }
  })
})

describe('ETSI MEC 016: contexts', () => {
  test('without a callback the answer has the addresses', async (t) => {
    const { ue, offload, base } = await startMec(t)
    const appDId = await register(ue)
    offload.startMs = 100
    const { status, headers, body } = await ue('POST', CONTEXTS, contextOf(appDId))
    assert.equal(status, 201)
    const context = appContext.parse(body)
    assert.equal(headers.get('location'), `${base}${CONTEXTS}/${context.contextId}`)
    const [instance] = context.appInfo.userAppInstanceInfo
    assert.match(instance?.referenceURI ?? '', /^http:\/\/10\.0\.0\.1:\d+$/)
    assert.ok(instance?.appInstanceId)

    // It is an application of its own, and none that can be asked for.
    const apps = (await ue('GET', '/mec/v1/apps')).body
    assert.deepEqual(apps.map(({ contextId }: { contextId?: string }) => contextId).sort(), [
      context.contextId,
      undefined,
    ])
    assert.equal((await ue('GET', '/dev_app/v1/app_list')).body.appList.length, 1)

    const path = `${CONTEXTS}/${context.contextId}`
    assertProblem(await ue('GET', path), 405)
    assert.equal((await ue('DELETE', path)).status, 204)
    assertProblem(await ue('DELETE', path), 404)
    assert.equal(offload.apps.size, 1)
  })

  test('with a callback: answered at once, told when it runs, when it moved, and when it is gone', async (t) => {
    const { ue, offload } = await startMec(t)
    const device = await startReceiver(t)
    const appDId = await register(ue)
    const { status, body } = await ue(
      'POST',
      CONTEXTS,
      contextOf(appDId, { callbackReference: device.url() }),
    )
    assert.equal(status, 201)
    const { contextId } = appContext.parse(body)
    const update = notification.parse((await device.next('ApplicationContextUpdateNotification')).body)
    assert.ok(update.notificationType === 'ApplicationContextUpdateNotification')
    assert.equal(update.contextId, contextId)
    const [instance] = update.userAppInstanceInfo

    const app = [...offload.apps.values()].find(({ id }) => id !== appDId)!
    offload.move(app.id, 'web', offload.room[0]!, 'moving')
    offload.move(app.id, 'web', offload.room[0]!, 'moved')
    const change = notification.parse((await device.next('AddressChangeNotification')).body)
    assert.ok(change.notificationType === 'AddressChangeNotification')
    assert.deepEqual([change.contextId, change.appInstanceId], [contextId, instance?.appInstanceId])
    assert.notEqual(change.referenceURI, instance?.referenceURI)

    await offload.end(app.id)
    const gone = notification.parse((await device.next('ApplicationContextDeleteNotification')).body)
    assert.deepEqual(gone, { notificationType: 'ApplicationContextDeleteNotification', contextId })
    assertProblem(await ue('DELETE', `${CONTEXTS}/${contextId}`), 404)
    assert.deepEqual(
      device.got.map(({ body }) => body.notificationType),
      [
        'ApplicationContextUpdateNotification',
        'AddressChangeNotification',
        'ApplicationContextDeleteNotification',
      ],
    )
    assert.equal(device.got[0]?.headers['content-type'], 'application/json')
  })

  test('an application that does not come to run', async (t) => {
    const { ue, offload } = await startMec(t)
    const device = await startReceiver(t)
    const appDId = await register(ue)
    offload.failing = 'there is no such image'
    const problem = assertProblem(await ue('POST', CONTEXTS, contextOf(appDId)), 403)
    assert.match(problem.detail, /there is no such image/)
    assert.equal(offload.apps.size, 1)

    await ue('POST', CONTEXTS, contextOf(appDId, { callbackReference: device.url() }))
    notification.parse((await device.next('ApplicationContextDeleteNotification')).body)
    await until('nothing is left', () => offload.apps.size === 1)
  })

  test('nothing fits: refused, or waited for where the device says so', async (t) => {
    const { ue, offload } = await startMec(t)
    const device = await startReceiver(t)
    const appDId = await register(ue)
    const room = offload.room
    offload.room = []
    assertProblem(await ue('POST', CONTEXTS, contextOf(appDId)), 403)
    assert.equal(offload.apps.size, 1)

    const auto = await ue(
      'POST',
      CONTEXTS,
      contextOf(appDId, { callbackReference: device.url('/auto'), appAutoInstantiation: true }),
    )
    assert.equal(auto.status, 201)
    appContext.parse(auto.body)
    const told = await ue(
      'POST',
      CONTEXTS,
      contextOf(appDId, { callbackReference: device.url('/told'), appLocationUpdates: true }),
    )
    const waiting = appContext.parse(told.body)
    offload.room = room
    await device.next('ApplicationContextUpdateNotification')
    const { path, body } = await device.next('ApplicationLocationAvailabilityNotification')
    const available = notification.parse(body)
    assert.ok(available.notificationType === 'ApplicationLocationAvailabilityNotification')
    assert.equal(path, '/told')
    assert.equal(available.contextId, waiting.contextId)

    // The device takes the location that it heard of.
    const { contextId, ...rest } = waiting
    const update = {
      ...rest,
      appInfo: { ...rest.appInfo, userAppInstanceInfo: available.availableLocations },
    }
    assert.equal((await ue('PUT', `${CONTEXTS}/${contextId}`, update)).status, 204)
    const second = await device.next('ApplicationContextUpdateNotification', 2)
    assert.equal(second.path, '/told')
    notification.parse(second.body)
  })

  test('an update changes the callback and the locations, and nothing else', async (t) => {
    const { ue, offload } = await startMec(t)
    const device = await startReceiver(t)
    const appDId = await register(ue)
    const { body } = await ue('POST', CONTEXTS, contextOf(appDId))
    const path = `${CONTEXTS}/${body.contextId}`
    // Just as a device got it, with its answers' members.
    assert.equal((await ue('PUT', path, { ...body, callbackReference: device.url('/new') })).status, 204)
    const app = [...offload.apps.values()].find(({ id }) => id !== appDId)!
    offload.move(app.id, 'web', offload.room[0]!, 'moved')
    assert.equal((await device.next('AddressChangeNotification')).path, '/new')

    const changed: [string, object][] = [
      ['associateDevAppId', { ...body, associateDevAppId: 'x' }],
      ['appInfo.appName', { ...body, appInfo: { ...body.appInfo, appName: 'x' } }],
      ['appLocationUpdates', { ...body, appLocationUpdates: true }],
      ['contextId', { ...body, contextId: 'x' }],
      ['callbackReference', { ...body, callbackReference: 'ftp://example.com/' }],
    ]
    for (const [field, asked] of changed) {
      const problem = assertProblem(await ue('PUT', path, asked), 400)
      assert.deepEqual(
        (problem.errors as { field: string }[]).map((error) => error.field),
        [field],
      )
    }
    assertProblem(await ue('PUT', `${CONTEXTS}/nobody`, { ...body, contextId: undefined }), 404)
  })

  test("another device's context is none", async (t) => {
    const node = await startMec(t)
    const other = await node.device('ue-2')
    const { body } = await node.ue('POST', CONTEXTS, contextOf(await register(node.ue)))
    assertProblem(await other('DELETE', `${CONTEXTS}/${body.contextId}`), 404)
    assertProblem(await other('PUT', `${CONTEXTS}/${body.contextId}`, body), 404)
    assertProblem(await other('POST', CONTEXTS, contextOf(body.appInfo.appDId)), 404)
    assert.equal((await node.ue('DELETE', `${CONTEXTS}/${body.contextId}`)).status, 204)
  })

  test('deleting its application ends a context', async (t) => {
    const { ue } = await startMec(t)
    const device = await startReceiver(t)
    const asked = contextOf(await register(ue), { callbackReference: device.url() })
    const { body } = await ue('POST', CONTEXTS, asked)
    const apps = (await ue('GET', '/mec/v1/apps')).body as { id: string; contextId?: string }[]
    const id = apps.find(({ contextId }) => contextId === body.contextId)?.id
    assert.equal((await ue('DELETE', `/mec/v1/apps/${id}`)).status, 204)
    await device.next('ApplicationContextDeleteNotification')
    assertProblem(await ue('DELETE', `${CONTEXTS}/${body.contextId}`), 404)
  })

  const at = (appLocation: object) => ({
    appInfo: { ...contextOf('x').appInfo, userAppInstanceInfo: [{ appLocation }] },
  })
  const wrong: [string, Record<string, unknown>][] = [
    ['associateDevAppId', { associateDevAppId: 'x'.repeat(33) }],
    ['associateDevAppId', { associateDevAppId: undefined }],
    ['appInfo', { appInfo: undefined }],
    ['appInfo.appName', { appInfo: { ...contextOf('x').appInfo, appName: 'x'.repeat(33) } }],
    ['appInfo.appProvider', { appInfo: { ...contextOf('x').appInfo, appProvider: 'x'.repeat(33) } }],
    ['appInfo.appDVersion', { appInfo: { ...contextOf('x').appInfo, appDVersion: undefined } }],
    ['appInfo.appSoftVersion', { appInfo: { ...contextOf('x').appInfo, appSoftVersion: 'x'.repeat(33) } }],
    ['appInfo.appDescription', { appInfo: { ...contextOf('x').appInfo, appDescription: 'x'.repeat(129) } }],
    ['appInfo.userAppInstanceInfo', { appInfo: { ...contextOf('x').appInfo, userAppInstanceInfo: [] } }],
    [
      'appInfo.userAppInstanceInfo',
      { appInfo: { ...contextOf('x').appInfo, userAppInstanceInfo: undefined } },
    ],
    [
      'appInfo.userAppInstanceInfo[0].referenceURI',
      { appInfo: { ...contextOf('x').appInfo, userAppInstanceInfo: [{ referenceURI: 'http://a/' }] } },
    ],
    ['appInfo.userAppInstanceInfo[0].appLocation.countryCode', at({})],
    ['appInfo.userAppInstanceInfo[0].appLocation.countryCode', at({ countryCode: 'DEU' })],
    ['appInfo.userAppInstanceInfo[0].appLocation.countryCode', at({ countryCode: 'de' })],
    [
      'appInfo.userAppInstanceInfo[0].appLocation.civicAddressElement[0].caType',
      at({ countryCode: 'DE', civicAddressElement: [{ caType: 'x', caValue: 'y' }] }),
    ],
    ['appInfo.userAppInstanceInfo[0].appLocation.area.coordinates', at({ area: { coordinates: [] } })],
    [
      'appInfo.userAppInstanceInfo[0].appLocation.area.coordinates[0]',
      at({
        area: {
          type: 'Polygon',
          coordinates: [
            [
              [0, 0],
              [0, 1],
              [1, 1],
              [1, 0],
            ],
          ],
        },
      }),
    ],
    ['contextId', { contextId: 'mine' }],
    ['appAutoInstantiation', { appLocationUpdates: true, appAutoInstantiation: true }],
    ['appLocationUpdates', { appLocationUpdates: 'true' }],
    ['callbackReference', { callbackReference: 'not a URI' }],
    ['callbackReference', { callbackReference: 'ftp://example.com/x' }],
    ['callbackReference', { callbackReference: 'http://user:pass@example.com/x' }],
    ['callbackReference', { callbackReference: 'http://169.254.169.254/latest' }],
    ['callbackReference', { callbackReference: 'http://0.0.0.0:80/' }],
    ['callbackReference', { callbackReference: 'http://[fe80::1]/' }],
  ]
  test('every limit of the standard', async (t) => {
    const { ue, offload } = await startMec(t)
    for (const [field, over] of wrong) {
      const problem = assertProblem(await ue('POST', CONTEXTS, contextOf('x', over)), 400)
      assert.deepEqual(
        (problem.errors as { field: string }[]).map((error) => error.field),
        [field],
        JSON.stringify(over),
      )
    }
    assert.equal(offload.calls.register, 0)
    // 32 and 128 are allowed.
    const long = { appName: 'x'.repeat(32), appDescription: 'x'.repeat(128) }
    assertProblem(
      await ue('POST', CONTEXTS, contextOf('x', { appInfo: { ...contextOf('x').appInfo, ...long } })),
      404,
    )
  })

  test('packages: by data:, from the device itself, and from nowhere else', async (t) => {
    const { ue } = await startMec(t)
    const asked = (appPackageSource: string) =>
      contextOf('', {
        appInfo: { ...contextOf('').appInfo, appDId: undefined, appPackageSource },
      })
    const data = `data:application/json;base64,${Buffer.from(JSON.stringify(APP)).toString('base64')}`
    const { status, body } = await ue('POST', CONTEXTS, asked(data))
    assert.equal(status, 201)
    assert.equal(body.appInfo.appPackageSource, data)
    assertProblem(await ue('POST', CONTEXTS, asked('http://10.9.8.7/app.json')), 403)
    assertProblem(await ue('POST', CONTEXTS, asked('http://169.254.169.254/app.json')), 400)
    assertProblem(await ue('POST', CONTEXTS, asked('file:///etc/passwd')), 400)
    assertProblem(await ue('POST', CONTEXTS, asked('data:application/json,{"name":7}')), 400)
    assertProblem(await ue('POST', CONTEXTS, asked('data:application/json,%7B')), 400)
    assertProblem(await ue('POST', CONTEXTS, asked('http://127.0.0.1:1/app.json')), 502)

    const { createServer } = await import('node:http')
    const server = createServer((req, res) => {
      if (req.url === '/app.json') res.end(JSON.stringify(APP))
      else if (req.url === '/moved') res.writeHead(302, { Location: '/app.json' }).end()
      else res.end('x'.repeat(100_000))
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    t.after(() => server.close())
    const at = `http://127.0.0.1:${(server.address() as { port: number }).port}`
    assert.equal((await ue('POST', CONTEXTS, asked(`${at}/app.json`))).status, 201)
    assertProblem(await ue('POST', CONTEXTS, asked(`${at}/moved`)), 502)
    assert.equal((await ue('POST', CONTEXTS, asked(`${at}/long`))).status >= 500, true)
  })
})

describe('ETSI MEC 016: locations', () => {
  test('where an application could run', async (t) => {
    const cluster = createMecCluster(t, ['edge-1', 'edge-2'])
    const node = await cluster.start('edge-1', {
      place: 'DE@52.5,13.4',
    })
    const ue = await node.device('ue-1')
    const appDId = await register(ue)
    const info = { appName: 'counter', appProvider: 'ue-1', appDVersion: '1.0' }
    const asked = { associateDevAppId: 'dev-app-1', appInfo: info }
    const { status, body } = await ue('POST', '/dev_app/v1/obtain_app_loc_availability', asked)
    assert.equal(status, 200)
    const available = applicationLocationAvailability.parse(body)
    assert.equal(available.appInfo.availableLocations?.length, 2)
    node.offload.room = []
    const none = applicationLocationAvailability.parse(
      (await ue('POST', '/dev_app/v1/obtain_app_loc_availability', asked)).body,
    )
    assert.deepEqual(none.appInfo.availableLocations, [])
    assertProblem(
      await ue('POST', '/dev_app/v1/obtain_app_loc_availability', {
        ...asked,
        appInfo: { ...info, appName: 'x'.repeat(33) },
      }),
      400,
    )

    // The second node alone is in the unit that is asked for; the first one alone is in the square.
    node.offload.room = cluster.members.map(({ id }) => id)
    const place = async (appLocation: object) => {
      const context = contextOf(appDId)
      return ue('POST', CONTEXTS, {
        ...context,
        appInfo: { ...context.appInfo, userAppInstanceInfo: [{ appLocation }] },
      })
    }
    const unit = await place({ countryCode: 'DE', civicAddressElement: [{ caType: 26, caValue: 'edge-2' }] })
    assert.match(
      appContext.parse(unit.body).appInfo.userAppInstanceInfo[0]?.referenceURI ?? '',
      /10\.0\.0\.2/,
    )
    const square = (x: number, y: number) => ({
      area: {
        type: 'Polygon',
        coordinates: [
          [
            [x, y],
            [x + 1, y],
            [x + 1, y + 1],
            [x, y + 1],
            [x, y],
          ],
        ],
      },
    })
    const inside = await place(square(13, 52))
    assert.match(
      appContext.parse(inside.body).appInfo.userAppInstanceInfo[0]?.referenceURI ?? '',
      /10\.0\.0\.1/,
    )
    assertProblem(await place(square(2, 48)), 403)
    assertProblem(await place({ countryCode: 'FR' }), 403)
  })
})
