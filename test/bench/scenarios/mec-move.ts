import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Migration } from '../../../integration/index.ts'
import { type Lab, type Site, start, startSite, until } from '../../lab/index.ts'
import { median, type Scenario, seconds } from '../report.ts'
import { inLab } from './common.ts'

const PORT = 5088
const CALLBACKS = 8099
const NODES = 2
const DEVICE = NODES
const MOST_MS = 1000
const WAIT = { timeoutMs: 60_000, everyMs: 50 }
/** Counts in memory alone, and shows where it is. */
const COUNTER = `
/bin/busybox mkdir -p /www
/bin/busybox httpd -p 8080 -h /www
i=0
while :; do i=$((i+1)); echo "$i" > /www/new; /bin/busybox mv /www/new /www/index.html; /bin/busybox usleep 100000; done`

/**
 * An application with state follows its device from one node to the other and back. All clocks of the lab are the same one, so that the
 * migration's record and the device's own list of what it was told can be compared.
 */
export const mecMove: Scenario = {
  name: 'mec-move',
  about: 'an application follows its device, live: from its restore until the device is told the new address',
  run: ({ runs, say }) =>
    inLab({ hosts: NODES + 1, lan: '1gbit' }, async (lab) => {
      await lab.push([{ name: 'lab/counter', tag: '1', layers: [1e6], runnable: true }])
      const edge = lab.hosts.slice(0, NODES)
      const containerds = await Promise.all(edge.map((host) => host.containerd()))
      const site = await startSite(
        lab,
        (i) => ({
          flags: [
            ...['--mec', `${lab.hosts[i]!.address}:${PORT}`, '--containerd', containerds[i]!.address],
            ...['--pod-cgroup', `/${lab.name}/h${i + 1}`],
          ],
        }),
        edge,
      )
      const token = (await site.nodes[0]!.cli(['mec', 'token', 'create', 'ue'])).stdout.trim()
      const device = createDevice(lab, token)
      let count = await device.page(await device.begin())
      const all: number[] = []
      for (let move = 1; move <= runs * 2; move++) {
        const at = move % NODES
        const came = Date.now()
        const told = await device.goTo(edge[at]!.name)
        const { restoredAt } = await arrival(site, at, came)
        const now = await device.page(told.referenceURI)
        if (now < count) throw new Error(`it went on from ${count}, and is at ${now}`)
        count = now
        all.push(told.at - restoredAt!)
        say(
          `  move ${move}: told ${told.at - restoredAt!} ms after the restore, ${told.at - came} ms after the device came`,
        )
      }
      const typical = median(all)
      const slowest = seconds(Math.max(...all))
      return [
        {
          criterion: 'mec 6',
          what: `from the restore until the device is told the new address, ${all.length} moves, the slowest ${slowest}`,
          baseline: '-',
          shoal: seconds(typical),
          figure: seconds(typical),
          target: `< ${seconds(MOST_MS)}`,
          ok: typical < MOST_MS,
        },
      ]
    }),
}

/** The newest migration to the node, when both ends have done with it. */
function arrival(site: Site, at: number, since: number): Promise<Migration> {
  return until(
    'the migration has ended',
    async () => {
      const both = await Promise.all(
        [at, (at + 1) % NODES].map(
          async (i) => (await site.nodes[i]!.api('/api/v1/migrations')) as Migration[],
        ),
      )
      const [here, there] = both.map((all) => all.find(({ startedAt }) => startedAt >= since))
      return here?.state === 'done' && there?.state === 'done' ? here : undefined
    },
    WAIT,
  )
}

interface Told {
  at: number
  body: {
    notificationType: string
    referenceURI: string
    userAppInstanceInfo: { referenceURI: string }[]
  }
}

/** A device that asks for a context by ETSI MEC 016, and has a server for its notifications. */
function createDevice(lab: Lab, token: string) {
  const host = lab.hosts[DEVICE]!
  const log = join(lab.dir, 'callbacks.jsonl')
  const program = fileURLToPath(new URL('../../lab/callbacks.ts', import.meta.url))
  start([process.execPath, program, host.address, `${CALLBACKS}`], { netns: host.netns, log })
  let heard = 0

  async function curl(method: string, path: string, body: unknown): Promise<unknown> {
    const { stdout } = await host.exec([
      ...['curl', '-sS', '--fail-with-body', '--max-time', '60', '-X', method, '-d', JSON.stringify(body)],
      ...['-H', `authorization: Bearer ${token}`, '-H', 'content-type: application/json'],
      `http://${lab.hosts[0]!.address}:${PORT}${path}`,
    ])
    return JSON.parse(stdout)
  }

  /** The next one that it is told. */
  function next(type: string): Promise<Told> {
    return until(
      `it is told by ${type}`,
      () => {
        const lines = readFileSync(log, 'utf8').split('\n').slice(0, -1)
        const told = lines.filter((line) => line.startsWith('{')).map((line) => JSON.parse(line) as Told)
        const found = told.slice(heard).find(({ body }) => body.notificationType === type)
        if (found) heard = told.length
        return found
      },
      WAIT,
    )
  }

  return {
    /** Resolves to where it runs. */
    async begin(): Promise<string> {
      const image = 'cloud.lab/lab/counter:1'
      const args = ['/bin/busybox', 'sh', '-c', COUNTER]
      const pod = { name: 'main', image, args, cpu: '50m', memory: '32Mi', ports: [8080] }
      // No link is as short as this: only the node that the device is at will do.
      const app = { name: 'counter', requiredDelayMs: 0.001, pods: [pod] }
      const { id } = (await curl('POST', '/mec/v1/apps', app)) as { id: string }
      await curl('POST', '/dev_app/v1/app_contexts', {
        associateDevAppId: 'bench',
        callbackReference: `http://${host.address}:${CALLBACKS}/`,
        appLocationUpdates: true,
        appInfo: {
          ...{ appDId: id, appName: 'counter', appProvider: 'ue', appDVersion: '1.0' },
          userAppInstanceInfo: [{}],
        },
      })
      const { body } = await next('ApplicationContextUpdateNotification')
      return body.userAppInstanceInfo[0]!.referenceURI
    },
    async goTo(node: string): Promise<{ at: number; referenceURI: string }> {
      await curl('PUT', '/mec/v1/location', { node })
      const { at, body } = await next('AddressChangeNotification')
      return { at, referenceURI: body.referenceURI }
    },
    page: (uri: string): Promise<number> =>
      until(
        `${uri} answers`,
        async () => {
          const { stdout } = await host.exec(['curl', '-s', '--max-time', '3', uri], { mayFail: true })
          return stdout.trim() === '' ? undefined : Number(stdout)
        },
        WAIT,
      ),
  }
}
