import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import type { DeviceReport, DevicesOrder } from '../lab/devices.ts'
import { createLab, type Lab, peakRss, type Site, startSite, until } from '../lab/index.ts'
import { CONTAINERD, type PodHost } from './pod-hosts.ts'
import { explained } from './support.ts'

const PORT = 5088
const NODES = 4
const DEVICES = 200
const WITHIN_MS = 480_000
/** The yardstick of every daemon, here with all of this at once. */
const MOST_BYTES = 150 * 2 ** 20
const PAGE = `
/bin/busybox mkdir -p /www
echo "$NAME" > /www/index.html
exec /bin/busybox httpd -f -p 8080 -h /www`

/** Four nodes with a containerd each, the first of them with the MEC API, and one host with all devices. */
describe('many devices at once', { skip: CONTAINERD.skip }, () => {
  let lab: Lab
  let site: Site
  let hosts: PodHost[]
  let tokens: Record<string, string>

  before(async () => {
    lab = await createLab({ hosts: NODES + 1, uplink: { rate: '100mbit', shared: true } })
    await lab.push([{ name: 'lab/small', tag: '1', layers: [1e5], runnable: true }])
    const edge = lab.hosts.slice(0, NODES)
    hosts = await Promise.all(edge.map((host) => CONTAINERD.start(host)))
    site = await startSite(
      lab,
      (i) => ({
        flags: [
          ...(i === 0 ? ['--mec', `${lab.hosts[i]!.address}:${PORT}`] : []),
          ...[...hosts[i]!.flags, '--pod-cgroup', `/${lab.name}/h${i + 1}`],
        ],
      }),
      edge,
    )
    tokens = await makeTokens()
  })
  after(() => lab?.destroy())

  async function makeTokens(): Promise<Record<string, string>> {
    const names = Array.from({ length: DEVICES }, (_, i) => `ue-${i}`)
    const config = names.map((ue) =>
      [
        'url = "http://127.0.0.1:5081/api/v1/mec/tokens"',
        'header = "content-type: application/json"',
        `data = ${JSON.stringify(JSON.stringify({ ue }))}`,
        'write-out = "\\n"',
      ].join('\n'),
    )
    const { stdout } = await lab.hosts[0]!.exec(['curl', '-sS', '--fail-with-body', '-K', '-'], {
      input: config.join('\nnext\n'),
    })
    const made = stdout.split('\n').filter((line) => line !== '')
    return Object.fromEntries(
      made.map((line) => {
        const { ue, token } = JSON.parse(line) as { ue: string; token: string }
        return [ue, token]
      }),
    )
  }

  async function devices(verb: DevicesOrder['verb']): Promise<DeviceReport[]> {
    const pod = {
      ...{ name: 'main', image: 'cloud.lab/lab/small:1', args: ['/bin/busybox', 'sh', '-c', PAGE] },
      ...{ cpu: '10m', memory: '8Mi', storage: '1Mi', ports: [8080] },
    }
    const base = `http://${lab.hosts[0]!.address}:${PORT}`
    const program = fileURLToPath(new URL('../lab/devices.ts', import.meta.url))
    const order: DevicesOrder = { base, tokens, pod, verb, withinMs: WITHIN_MS }
    const { stdout } = await lab.hosts[NODES]!.exec([process.execPath, program], {
      input: JSON.stringify(order),
      timeoutMs: WITHIN_MS + 10_000,
    })
    return stdout
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as DeviceReport)
  }

  const containers = async (): Promise<string[]> =>
    (await Promise.all(hosts.map((host) => host.names()))).flat()

  async function killServer(): Promise<number> {
    const { service } = site.nodes[0]!
    const peak = peakRss(service.pid)
    service.kill('SIGKILL')
    await service.ended
    await site.heal()
    return peak
  }

  test(`${DEVICES} of them get their applications, each one, though the server is killed, and leave nothing`, (t) =>
    explained(
      () => site,
      async () => {
        assert.equal(Object.keys(tokens).length, DEVICES)
        const begun = performance.now()
        const asked = devices('run')
        await until('a quarter is there', async () => (await containers()).length > DEVICES / 4, {
          timeoutMs: WITHIN_MS,
          everyMs: 200,
        })
        const peaks = [await killServer()]
        const reports = await asked
        t.diagnostic(`all run after ${((performance.now() - begun) / 1000).toFixed(1)} s`)

        assert.equal(reports.length, DEVICES)
        for (const { device, page } of reports) assert.equal(page, device)
        assert.equal(new Set(reports.map(({ referenceURI }) => referenceURI)).size, DEVICES)
        const wanted = reports.map(({ id }) => `shoal-${id}-main`).sort()
        assert.deepEqual((await containers()).sort(), wanted)

        const from = performance.now()
        const gone = devices('delete')
        await until('a quarter is gone', async () => (await containers()).length < (DEVICES * 3) / 4, {
          timeoutMs: WITHIN_MS,
          everyMs: 200,
        })
        peaks.push(await killServer())
        await gone
        t.diagnostic(`all gone after ${((performance.now() - from) / 1000).toFixed(1)} s`)

        for (const node of site.nodes) peaks.push(node.peakRss())
        const mib = peaks.map((bytes) => Math.round(bytes / 2 ** 20))
        t.diagnostic(`memory at most: ${mib.join(', ')} MiB`)
        for (const [i, host] of hosts.entries()) await host.assertNothingLeft(site.nodes[i]!)
        assert.ok(Math.max(...peaks) < MOST_BYTES, `${mib.join(', ')} MiB`)
      },
    ))
})
