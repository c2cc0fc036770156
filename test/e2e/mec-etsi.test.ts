import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { findPlugins } from '../../integration/offload/network/cni.ts'
import {
  anySubscription,
  appContext,
  applicationList,
  applicationLocationAvailability,
  notification,
} from '../integration/mec-schemas.ts'
import {
  type Containerd,
  createLab,
  type Lab,
  type Service,
  type Site,
  start,
  startSite,
  until,
} from '../lab/index.ts'
import { explained, lacking } from './support.ts'

const PORT = 5088
const CALLBACKS = 8099
const EDGE = 2
const WAIT = { timeoutMs: 90_000, everyMs: 100 }
/** Counts ten times a second, in memory alone, and shows where it is. */
const COUNTER = `
/bin/busybox mkdir -p /www
/bin/busybox httpd -p 8080 -h /www
i=0
while :; do i=$((i+1)); echo "$i" > /www/new; /bin/busybox mv /www/new /www/index.html; /bin/busybox usleep 100000; done`

const missing = (): string | false => (findPlugins() === undefined ? 'needs the CNI plugins' : false)

/** Two nodes with a containerd each, and a device with curl and a server for callbacks. */
describe('a device that speaks ETSI MEC 016 and 021', {
  skip: lacking('containerd', 'ctr', 'runc', 'criu', 'iptables') || missing(),
}, () => {
  let lab: Lab
  let site: Site
  let containerds: Containerd[]
  let receiver: Service
  let log = ''
  let token = ''

  before(async () => {
    lab = await createLab({ hosts: EDGE + 1 })
    await lab.push([{ name: 'lab/counter', tag: '1', layers: [1e6], runnable: true }])
    const edge = lab.hosts.slice(0, EDGE)
    containerds = await Promise.all(edge.map((host) => host.containerd()))
    site = await startSite(
      lab,
      (i) => ({
        flags: [
          ...['--mec', `${lab.hosts[i]!.address}:${PORT}`, '--mec-place', 'DE'],
          ...['--containerd', containerds[i]!.address, '--pod-cgroup', `/${lab.name}/h${i + 1}`],
        ],
      }),
      edge,
    )
    const made = await site.nodes[0]!.cli(['mec', 'token', 'create', 'camera-7'])
    assert.equal(made.code, 0, made.stderr)
    token = made.stdout.trim()
    const device = lab.hosts[EDGE]!
    log = join(lab.dir, 'callbacks.jsonl')
    const program = fileURLToPath(new URL('../lab/callbacks.ts', import.meta.url))
    receiver = start([process.execPath, program, device.address, String(CALLBACKS)], {
      netns: device.netns,
      log,
    })
  })
  after(async () => {
    await receiver?.stop()
    await lab?.destroy()
  })

  async function curl(method: string, path: string, body?: unknown, at = 0) {
    const { stdout } = await lab.hosts[EDGE]!.exec([
      ...['curl', '-s', '--max-time', '90', '-X', method, '-w', '\n%{http_code}'],
      ...['-H', `authorization: Bearer ${token}`, '-H', 'content-type: application/json'],
      ...(body === undefined ? [] : ['-d', JSON.stringify(body)]),
      `http://${lab.hosts[at]!.address}:${PORT}${path}`,
    ])
    const lines = stdout.split('\n')
    const status = Number(lines.pop())
    const text = lines.join('\n')
    return { status, body: text === '' ? undefined : JSON.parse(text) }
  }

  const told = () =>
    readFileSync(log, 'utf8')
      .split('\n')
      .slice(0, -1)
      .filter((line) => line.startsWith('{'))
      .map((line) => JSON.parse(line) as { at: number; path: string; body: unknown })
      .map(({ at, path, body }) => ({ at, path, body: notification.parse(body) }))

  async function page(uri: string): Promise<number> {
    const { stdout } = await lab.hosts[EDGE]!.exec(['curl', '-s', '--max-time', '3', uri], { mayFail: true })
    return stdout.trim() === '' ? Number.NaN : Number(stdout)
  }

  test('a context from the list to its end, over a move with its state', (t) =>
    explained(
      () => site,
      async () => {
        const offer = join(lab.dir, 'offer.json')
        const pod = {
          name: 'main',
          image: 'cloud.lab/lab/counter:1',
          args: ['/bin/busybox', 'sh', '-c', COUNTER],
          cpu: '50m',
          memory: '32Mi',
          ports: [8080],
        }
        writeFileSync(
          offer,
          JSON.stringify({
            appDId: 'counter',
            appName: 'counter',
            appProvider: 'plant',
            appDescription: 'Counts, and loses nothing',
            serviceCont: true,
            // No link is as short as this: only the node that the device is at will do.
            application: { name: 'counter', requiredDelayMs: 0.001, pods: [pod] },
          }),
        )
        const added = await site.nodes[1]!.cli(['mec', 'app', 'add', offer])
        assert.equal(added.code, 0, added.stderr)
        await until('the other node offers it too', async () => {
          const { body } = await curl('GET', '/dev_app/v1/app_list?serviceCont=1')
          return applicationList.parse(body).appList?.length === 1
        })
        const names = { appName: 'counter', appProvider: 'plant', appDVersion: '1.0' }
        const where = await curl('POST', '/dev_app/v1/obtain_app_loc_availability', {
          associateDevAppId: 'camera-app',
          appInfo: names,
        })
        const available = applicationLocationAvailability.parse(where.body).appInfo.availableLocations
        assert.ok(available && available.length > 0, JSON.stringify(where.body))

        const callback = (path: string) => `http://${lab.hosts[EDGE]!.address}:${CALLBACKS}${path}`
        const subscribed = await curl('POST', '/amsi/v1/subscriptions', {
          subscriptionType: 'MobilityProcedureSubscription',
          callbackReference: callback('/amsi'),
          filterCriteria: {
            mobilityStatus: [
              'INTERHOST_MOVEOUT_TRIGGERED',
              'INTERHOST_MOVEOUT_COMPLETED',
              'INTERHOST_MOVEOUT_FAILED',
            ],
          },
        })
        anySubscription.parse(subscribed.body)
        const made = await curl('POST', '/dev_app/v1/app_contexts', {
          associateDevAppId: 'camera-app',
          appInfo: { ...names, appDId: 'counter', userAppInstanceInfo: [{}] },
          callbackReference: callback('/context'),
          appLocationUpdates: true,
        })
        assert.equal(made.status, 201, JSON.stringify(made.body))
        const { contextId } = appContext.parse(made.body)

        const update = await until(
          'it is told where it runs',
          () => told().find(({ body }) => body.notificationType === 'ApplicationContextUpdateNotification'),
          WAIT,
        )
        assert.ok(update.body.notificationType === 'ApplicationContextUpdateNotification')
        assert.equal(update.body.contextId, contextId)
        const [instance] = update.body.userAppInstanceInfo
        const before = instance!.referenceURI
        assert.ok(before.includes(lab.hosts[0]!.address), before)
        const seen = await until(
          'it counts',
          async () => {
            const count = await page(before)
            return count > 20 ? count : undefined
          },
          WAIT,
        )

        // The device is seen at the other node from here on.
        assert.equal((await curl('GET', '/mec/v1/location', undefined, 1)).body.node, 'h2')
        const change = await until(
          'it is told of another address',
          () => told().find(({ body }) => body.notificationType === 'AddressChangeNotification'),
          WAIT,
        )
        assert.ok(change.body.notificationType === 'AddressChangeNotification')
        assert.deepEqual(
          [change.body.contextId, change.body.appInstanceId],
          [contextId, instance!.appInstanceId],
        )
        const { referenceURI } = change.body
        assert.ok(referenceURI.includes(lab.hosts[1]!.address), referenceURI)
        const count = await until(
          'it answers there',
          async () => {
            const one = await page(referenceURI)
            return Number.isNaN(one) ? undefined : one
          },
          WAIT,
        )
        assert.ok(count >= seen, `it went on from ${seen}, not from the beginning: ${count}`)
        await until(
          'both statuses are told',
          () => told().filter(({ path }) => path === '/amsi').length >= 2,
          WAIT,
        )
        const statuses = told().flatMap(({ body }) => ('mobilityStatus' in body ? [body.mobilityStatus] : []))
        assert.deepEqual(statuses, ['INTERHOST_MOVEOUT_TRIGGERED', 'INTERHOST_MOVEOUT_COMPLETED'])
        const { stdout } = await site.nodes[1]!.cli(['migrations', '--json'])
        const [migration] = JSON.parse(stdout) as { startedAt: number; restoredAt: number }[]
        const { startedAt, restoredAt } = migration!
        // What may yet be taken back is told to nobody.
        assert.ok(change.at >= restoredAt)
        t.diagnostic(
          `told ${change.at - startedAt} ms after the migration began, ${change.at - restoredAt} ms after the restore`,
        )

        // By the node that it is at now, though another one keeps the context.
        const path = `/dev_app/v1/app_contexts/${contextId}`
        assert.equal((await curl('DELETE', path, undefined, 1)).status, 204)
        assert.equal((await curl('DELETE', path)).status, 404)
        for (const { ctr } of containerds) assert.equal((await ctr(['containers', 'ls', '-q'])).stdout, '')
        assert.ok(Number.isNaN(await page(referenceURI)))
      },
    ))
})
