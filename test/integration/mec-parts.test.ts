import assert from 'node:assert/strict'
import { generateKeyPairSync } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { request } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { isShoalError } from '../../base/index.ts'
import { parseRegistration, parseSubscription } from '../../integration/mec/amsi-body.ts'
import { appView, parseApp } from '../../integration/mec/app-body.ts'
import { parseSelection, select } from '../../integration/mec/attribute-filter.ts'
import { bareAddress, checkTarget, isLoopbackAddress } from '../../integration/mec/callback-target.ts'
import { parseAvailability, parseContext } from '../../integration/mec/context-body.ts'
import { parsePlace } from '../../integration/mec/location.ts'
import { formatCpu, formatQuantity, parseCpu, parseQuantity } from '../../integration/mec/units.ts'
import { createWhereabouts, type Whereabout } from '../../integration/mec/whereabouts.ts'
import { selfSignedCertificate } from '../../manager/network/certificate.ts'
import { APP, contextOf, createMecCluster, createTables } from './mec-tools.ts'

/** A parser of what anybody sends either reads it or says what is wrong; nothing else ever comes out of it. */
function readsOrRefuses(parse: (body: unknown) => unknown): (body: unknown) => void {
  return (body) => {
    try {
      parse(body)
    } catch (error) {
      assert.ok(isShoalError(error, 'USAGE'), String(error))
      assert.ok(error.message.length > 0)
    }
  }
}

/** Bodies that are nearly right, which get further into a parser than random ones. */
function damaged(good: object): fc.Arbitrary<unknown> {
  const paths: (string | number)[][] = []
  const walk = (value: unknown, path: (string | number)[]): void => {
    paths.push(path)
    if (typeof value !== 'object' || value === null) return
    for (const key of Object.keys(value)) walk((value as Record<string, unknown>)[key], [...path, key])
  }
  walk(good, [])
  return fc.tuple(fc.constantFrom(...paths.slice(1)), fc.jsonValue()).map(([path, value]) => {
    const copy = structuredClone(good) as Record<string, unknown>
    let at = copy
    for (const key of path.slice(0, -1)) at = at[key] as Record<string, unknown>
    at[path.at(-1)!] = value
    return copy
  })
}

describe('parsers', () => {
  const registration = {
    serviceConsumerId: { appInstanceId: 'a' },
    deviceInformation: [{ associateId: { type: 'UE_IPv4_ADDRESS', value: '10.0.0.1' } }],
    expiryTime: 5,
  }
  const subscription = {
    subscriptionType: 'MobilityProcedureSubscription',
    callbackReference: 'http://10.0.0.1/',
    expiryDeadline: { seconds: 1e9, nanoSeconds: 0 },
    filterCriteria: {
      associateId: [{ type: 'GTP_TEID', value: 'x' }],
      mobilityStatus: ['INTERHOST_MOVEOUT_FAILED'],
    },
  }
  const place = { countryCode: 'DE', civicAddressElement: [{ caType: 3, caValue: 'Berlin' }] }
  const context = contextOf('x', { callbackReference: 'http://10.0.0.1/', appLocationUpdates: true })
  context.appInfo.userAppInstanceInfo = [{ appLocation: place }]
  const all: [string, (body: unknown) => unknown, object][] = [
    ['applications', parseApp, APP],
    ['contexts', parseContext, context],
    ['availability', parseAvailability, { associateDevAppId: 'a', appInfo: context.appInfo }],
    ['registrations', parseRegistration, registration],
    ['subscriptions', (body) => parseSubscription(body, 0), subscription],
  ]
  for (const [name, parse, good] of all) {
    test(`${name}: what is right is read, anything else is refused with a reason`, () => {
      parse(good)
      fc.assert(fc.property(fc.oneof(damaged(good), fc.jsonValue()), readsOrRefuses(parse)), { numRuns: 500 })
    })
  }

  test('an application comes back as it was sent', () => {
    const spec = parseApp(APP)
    const view = appView({
      id: 'x',
      owner: 'ue',
      spec,
      state: 'registered',
      pods: [],
      reasons: [],
      createdAt: 1,
    })
    const { name, requiredDelayMs, executionTimeS, priority } = view
    assert.deepEqual(
      { name, requiredDelayMs, executionTimeS, priority },
      {
        name: APP.name,
        requiredDelayMs: 20,
        executionTimeS: 60,
        priority: 1,
      },
    )
    const [{ state, ...pod }] = view.pods as [{ state: string }]
    assert.deepEqual([state, pod], ['pending', APP.pods[0]])
  })

  test('units', () => {
    assert.deepEqual(['250m', '1', '0.5', '1500m'].map(parseCpu), [0.25, 1, 0.5, 1.5])
    assert.deepEqual(
      ['64Mi', '100M', '1.5Gi', '7', '2k'].map(parseQuantity),
      [67108864, 1e8, 1610612736, 7, 2000],
    )
    for (const wrong of ['', ' 1', '1 ', '1e3', '0x10', '-1', '+1', '1.', '.5', '1mm', '1,5', '١']) {
      assert.equal(parseCpu(wrong), undefined, wrong)
    }
    for (const wrong of [
      '',
      'Mi',
      '1 Mi',
      '1MB',
      '1mi',
      '1m',
      '-1Mi',
      '1e6',
      'NaN',
      '0.3',
      '9999999999999Ti',
    ]) {
      assert.equal(parseQuantity(wrong), undefined, wrong)
    }
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 2 ** 50 }), fc.integer({ min: 1, max: 1e6 }), (bytes, milli) => {
        assert.equal(parseQuantity(formatQuantity(bytes)), bytes)
        assert.equal(parseCpu(formatCpu(milli / 1000)), milli / 1000)
      }),
    )
    fc.assert(
      fc.property(fc.string(), (text) => {
        for (const value of [parseCpu(text), parseQuantity(text)]) {
          assert.ok(value === undefined || (Number.isFinite(value) && value >= 0))
        }
      }),
    )
  })

  test('filters never do more than choose', () => {
    const items = [{ a: 1, b: [{ c: 'x' }] }, { a: 2 }]
    fc.assert(
      fc.property(fc.string(), (text) => {
        readsOrRefuses(() => {
          const chosen = select(items, parseSelection({ filter: [text] }), ['b'])
          assert.ok(chosen.every((item) => items.some((one) => JSON.stringify(one) === JSON.stringify(item))))
        })(undefined)
      }),
    )
    assert.deepEqual(
      select(items, parseSelection({ filter: ['(eq,b/c,x)'], exclude_fields: ['b'] }), ['b']),
      [{ a: 1 }],
    )
  })

  test('places', () => {
    assert.deepEqual(parsePlace('DE'), { country: 'DE' })
    assert.deepEqual(parsePlace('BR@-23.5,-46.6'), {
      country: 'BR',
      position: { latitude: -23.5, longitude: -46.6 },
    })
    for (const wrong of ['', 'de', 'DEU', 'DE@', 'DE@91,0', 'DE@0,181', 'DE@1']) {
      assert.throws(() => parsePlace(wrong), { code: 'CONFIG' })
    }
  })
})

describe('where callbacks may go', () => {
  test('not into the node, not to where no device is', () => {
    const allow = (url: string, allowLoopback = false) => checkTarget(url, { allowLoopback })
    for (const url of ['http://10.0.0.7:8080/x', 'https://device.example/', 'http://[2001:db8::1]/'])
      allow(url)
    const never = [
      'ftp://10.0.0.7/',
      'http://user@10.0.0.7/',
      'http://169.254.169.254/',
      'http://0.0.0.0/',
      'http://224.0.0.1/',
      'http://[::]/',
      'http://[fe80::1]/',
      'http://[::ffff:169.254.169.254]/',
      'file:///etc/passwd',
      'http:///x',
    ]
    for (const url of never) {
      if (url === 'http:///x') continue
      assert.throws(() => allow(url, true), { code: 'USAGE' }, url)
    }
    // However it is written.
    for (const url of [
      'http://127.0.0.1/',
      'http://127.1/',
      'http://2130706433/',
      'http://0x7f.1/',
      'http://[::1]/',
      'http://[::ffff:127.0.0.1]/',
    ]) {
      assert.throws(() => allow(url), { code: 'USAGE' }, url)
      allow(url, true)
    }
    assert.equal(bareAddress('::ffff:10.0.0.1'), '10.0.0.1')
    assert.ok(isLoopbackAddress('::ffff:127.0.0.1'))
  })

  test('a name that leads into the node is found when it is resolved', async () => {
    const { exchange } = await import('../../integration/mec/exchange.ts')
    const { signal } = new AbortController()
    const ask = { method: 'POST', body: '{}', timeoutMs: 1000, maxAnswer: 0, signal } as const
    await assert.rejects(exchange({ ...ask, url: 'http://localhost:1/', allowLoopback: false }), {
      code: 'DENIED',
    })
    await assert.rejects(exchange({ ...ask, url: 'http://localhost:1/', allowLoopback: true }), {
      code: 'UPSTREAM_UNREACHABLE',
    })
  })
})

test('where a device is: seen, reported, and not back because it asks the node that it knows', async () => {
  const table = createTables()
  const where = await createWhereabouts({ records: table<Whereabout>('where') })
  assert.equal(await where.seen('ue', 'a'), true)
  assert.equal(await where.seen('ue', 'a'), false)
  assert.equal(await where.report('ue', 'b'), true)
  assert.equal(await where.seen('ue', 'a'), false)
  assert.equal(where.of('ue')?.entry, 'b')
  assert.equal(await where.seen('ue', 'c'), true)
  assert.equal(await where.report('ue', 'c'), false)
  const again = await createWhereabouts({ records: table<Whereabout>('where') })
  assert.deepEqual(
    again.all().map(([ue, { entry }]) => [ue, entry]),
    [['ue', 'c']],
  )
})

test('TLS, where there is a certificate; what is none is said', async (t) => {
  const dir = await mkdtemp(join(tmpdir(), 'shoal-mec-'))
  t.after(() => rm(dir, { recursive: true }))
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const [cert, key, bad] = ['cert.pem', 'key.pem', 'bad.pem'].map((name) => join(dir, name)) as [
    string,
    string,
    string,
  ]
  await writeFile(cert, selfSignedCertificate(privateKey))
  await writeFile(key, privateKey.export({ format: 'pem', type: 'pkcs8' }))
  await writeFile(bad, 'no PEM')
  const listen = { host: '127.0.0.1', port: 0 }
  const cluster = createMecCluster(t)
  const node = await cluster.start('edge-1', { listen: { ...listen, cert, key } })
  const { token } = await node.mec.tokens.create('ue-1')
  const { status, location } = await new Promise<{ status?: number; location?: string }>(
    (resolve, reject) => {
      const req = request(`${node.base}/mec/v1/apps`, {
        method: 'POST',
        rejectUnauthorized: false,
        headers: { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' },
      })
      req.on('error', reject)
      req.on('response', (res) => {
        res.resume()
        resolve({
          ...(res.statusCode === undefined ? {} : { status: res.statusCode }),
          ...(res.headers.location === undefined ? {} : { location: res.headers.location }),
        })
      })
      req.end(JSON.stringify(APP))
    },
  )
  assert.equal(status, 201)
  assert.match(location ?? '', /^https:\/\/127\.0\.0\.1:\d+\/mec\/v1\/apps\/[0-9a-f]{32}$/)
  await node.stop()
  for (const wrong of [{ cert }, { key }, { cert: bad, key }, { cert: join(dir, 'none'), key }]) {
    await assert.rejects(cluster.start('edge-1', { listen: { ...listen, ...wrong } }), { code: 'CONFIG' })
  }
})
