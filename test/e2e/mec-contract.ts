import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { createLab, type Lab, type Site, startSite, until } from '../lab/index.ts'
import type { PodHost, PodRuntimeKit } from './pod-hosts.ts'
import { explained } from './support.ts'

const PORT = 5088
const WAIT = { timeoutMs: 90_000, everyMs: 200 }
/** Counts ten times a second, and shows where it is. */
const COUNTER = `
/bin/busybox mkdir -p /www
/bin/busybox httpd -p 8080 -h /www
i=0
while :; do i=$((i+1)); echo "$NAME $i" > /www/new; /bin/busybox mv /www/new /www/index.html; /bin/busybox usleep 100000; done`

interface Shown {
  id: string
  state: string
  reasons: string[]
  pods: {
    name: string
    state: string
    node?: string
    referenceURI?: string
    startedMs?: number
    reason?: string
  }[]
}

/** Three nodes with a container runtime each, and a device that has nothing but curl: the same of each runtime. */
export function testMecContract(kit: PodRuntimeKit): void {
  describe(`devices hand applications to the edge, which runs them in ${kit.name}`, { skip: kit.skip }, () =>
    suite(kit),
  )
}

function suite(kit: PodRuntimeKit): void {
  let lab: Lab
  let site: Site
  let hosts: PodHost[]
  let token = ''
  const EDGE = 3

  before(async () => {
    lab = await createLab({ hosts: EDGE + 1, uplink: { rate: '100mbit', shared: true } })
    await lab.push([{ name: 'lab/app', tag: '1', layers: [3e6], runnable: true }])
    const edge = lab.hosts.slice(0, EDGE)
    hosts = await Promise.all(edge.map((host) => kit.start(host)))
    site = await startSite(lab, (i) => ({ flags: flags(i) }), edge)
    const made = await site.nodes[0]!.cli(['mec', 'token', 'create', 'ue-1'])
    assert.equal(made.code, 0, made.stderr)
    token = made.stdout.trim()
  })
  after(async () => {
    // A pod's processes are in no namespace of the lab's: their cgroup tells the sweep whose they are.
    await lab?.destroy()
  })

  function flags(i: number): string[] {
    return [
      ...['--mec', `${lab.hosts[i]!.address}:${PORT}`, ...hosts[i]!.flags],
      ...['--pod-cgroup', `/${lab.name}/h${i + 1}`],
    ]
  }

  const logged = (body: () => Promise<void>) => () => explained(() => site, body)

  /** As the device does it: curl, on a host without Shoal. */
  async function curl(
    method: string,
    path: string,
    options: { body?: unknown; at?: number; token?: string } = {},
  ) {
    const base = `http://${lab.hosts[options.at ?? 0]!.address}:${PORT}`
    const { stdout, code } = await lab.hosts[EDGE]!.exec(
      [
        ...['curl', '-s', '--max-time', '60', '-X', method, '-w', '\n%{http_code}'],
        ...['-H', `authorization: Bearer ${options.token ?? token}`, '-H', 'content-type: application/json'],
        ...(options.body === undefined ? [] : ['-d', JSON.stringify(options.body)]),
        `${base}${path}`,
      ],
      { mayFail: true },
    )
    const lines = stdout.split('\n')
    const status = code === 0 ? Number(lines.pop()) : 0
    const text = lines.join('\n')
    return { status, body: text.startsWith('{') || text.startsWith('[') ? JSON.parse(text) : text }
  }

  async function page(uri: string): Promise<string> {
    const { stdout } = await lab.hosts[EDGE]!.exec(['curl', '-s', '--max-time', '3', uri], { mayFail: true })
    return stdout.trim()
  }

  /** A process that was started is a moment from listening. */
  const answer = (uri: string): Promise<string> =>
    until('it answers', async () => (await page(uri)) || undefined, WAIT)

  const counted = async (uri: string): Promise<number> =>
    Number((await page(uri)).split(' ')[1] ?? Number.NaN)

  function application(name: string, pods: string[], more: Record<string, unknown> = {}) {
    return {
      name,
      pods: pods.map((pod) => ({
        name: pod,
        image: 'cloud.lab/lab/app:1',
        args: ['/bin/busybox', 'sh', '-c', COUNTER],
        env: { NAME: `${name}/${pod}` },
        cpu: '100m',
        memory: '32Mi',
        storage: '1Mi',
        ports: [8080],
      })),
      ...more,
    }
  }

  async function shown(id: string, at = 0): Promise<Shown> {
    const { status, body } = await curl('GET', `/mec/v1/apps/${id}`, { at })
    assert.equal(status, 200, JSON.stringify(body))
    return body as Shown
  }

  async function isRunning(id: string): Promise<Shown> {
    let last: Shown | undefined
    try {
      await until(
        `${id} runs`,
        async () => {
          last = await shown(id)
          return last.state === 'running'
        },
        WAIT,
      )
    } catch (error) {
      throw new Error(`${(error as Error).message}: ${JSON.stringify(last)}`)
    }
    return last!
  }

  const all = async (): Promise<string[]> => (await Promise.all(hosts.map((host) => host.names()))).flat()
  const hostOf = ({ node }: Shown['pods'][number]): number => Number(node!.slice(1)) - 1

  async function nothingLeft(): Promise<void> {
    for (const [i, host] of hosts.entries()) await host.assertNothingLeft(site.nodes[i]!)
  }

  async function offloaded(body: unknown): Promise<string> {
    const made = await curl('POST', '/mec/v1/apps', { body })
    assert.equal(made.status, 201, JSON.stringify(made.body))
    const { id } = made.body as Shown
    const asked = await curl('POST', `/mec/v1/apps/${id}/offload`)
    assert.equal(asked.status, 202, JSON.stringify(asked.body))
    return id
  }

  test(
    'curl alone registers, offloads and deletes an application; a second DELETE is 404',
    logged(async () => {
      const made = await curl('POST', '/mec/v1/apps', { body: application('front', ['a', 'b']) })
      assert.equal(made.status, 201, JSON.stringify(made.body))
      const { id } = made.body as Shown
      assert.equal((await curl('POST', `/mec/v1/apps/${id}/offload`)).status, 202)
      const app = await isRunning(id)
      assert.equal(new Set(app.pods.map(({ node }) => node)).size, 2, `spread: ${app.reasons.join('\n')}`)
      for (const { name, node, referenceURI, startedMs } of app.pods) {
        assert.match(await answer(referenceURI!), new RegExp(`^front/${name} \\d+$`))
        assert.ok(referenceURI!.includes(lab.hosts[Number(node!.slice(1)) - 1]!.address))
        assert.ok(startedMs! > 0)
      }
      assert.equal((await curl('GET', `/mec/v1/apps/${id}`, { token: 'none' })).status, 401)
      // At another node's door the same.
      assert.equal((await shown(id, 1)).state, 'running')
      const [{ referenceURI }] = app.pods as [Shown['pods'][number]]
      assert.equal((await curl('DELETE', `/mec/v1/apps/${id}`)).status, 204)
      await nothingLeft()
      assert.equal(await page(referenceURI!), '')
      assert.equal((await curl('DELETE', `/mec/v1/apps/${id}`)).status, 404)
      assert.equal((await curl('GET', `/mec/v1/apps/${id}`)).status, 404)
    }),
  )

  test(
    'a pod has the limits, the environment and the words of its description; without arguments the image’s own command runs',
    logged(async () => {
      const body = application('limited', ['a'])
      const own = { name: 'own', image: 'cloud.lab/lab/app:1', cpu: '100m', memory: '32Mi' }
      const id = await offloaded({ ...body, pods: [...body.pods, own] })
      const found = await until(
        'the one runs',
        async () => (await shown(id)).pods.find(({ name, state }) => name === 'a' && state === 'running'),
        WAIT,
      )
      const pid = await hosts[hostOf(found)]!.pid(`shoal-${id}-a`)
      assert.equal(limitOf(pid, 'memory', ['memory.max', 'memory.limit_in_bytes']), `${32 * 2 ** 20}`)
      assert.match(limitOf(pid, 'cpu', ['cpu.max', 'cpu.cfs_quota_us']), /^10000( 100000)?$/)
      assert.match(await answer(found.referenceURI!), /^limited\/a \d+$/)
      await until(
        'the other has said what its image has it say',
        async () => {
          const all = await Promise.all(
            hosts.map((host, i) => host.output(`shoal-${id}-own`, site.nodes[i]!)),
          )
          return all.some((text) => text.includes('hello from lab/app:1'))
        },
        WAIT,
      )
      assert.equal((await curl('DELETE', `/mec/v1/apps/${id}`)).status, 204)
      await nothingLeft()
    }),
  )

  test(
    'a pod that writes more than its storage is stopped, and says why',
    logged(async () => {
      const body = application('fills', ['a'])
      body.pods[0]!.args = [
        '/bin/busybox',
        'sh',
        '-c',
        '/bin/busybox head -c 9000000 /dev/zero > /full; /bin/busybox sleep 100000',
      ]
      const id = await offloaded(body)
      const app = await until(
        'it is stopped',
        async () => {
          const found = await shown(id)
          return found.state === 'failed' ? found : undefined
        },
        WAIT,
      )
      assert.match(app.pods[0]!.reason!, /^it was stopped: it had 8\.\d+ MiB in its writable layer/)
      await until('its container is gone', async () => (await all()).length === 0, WAIT)
      assert.equal((await curl('DELETE', `/mec/v1/apps/${id}`)).status, 204)
      await nothingLeft()
    }),
  )

  test(
    'what fits nowhere is refused with a reason for each node',
    logged(async () => {
      const body = application('huge', ['a'])
      body.pods[0]!.memory = '900Ti'
      const { id } = (await curl('POST', '/mec/v1/apps', { body })).body as Shown
      const refused = await curl('POST', `/mec/v1/apps/${id}/offload`)
      assert.ok(refused.status >= 400, JSON.stringify(refused.body))
      const { reasons } = await shown(id)
      for (const i of [1, 2, 3])
        assert.ok(
          reasons.some((line) => line.startsWith(`h${i}: a needs 900 TiB of memory`)),
          reasons.join('\n'),
        )
      assert.equal((await curl('DELETE', `/mec/v1/apps/${id}`)).status, 204)
    }),
  )

  test(
    'a process that ends is started again, with its address',
    logged(async () => {
      const { id } = (await curl('POST', '/mec/v1/apps', { body: application('crash', ['a']) })).body as Shown
      await curl('POST', `/mec/v1/apps/${id}/offload`)
      const [pod] = (await isRunning(id)).pods as [Shown['pods'][number]]
      const { referenceURI } = pod
      await until('it counts', async () => (await counted(referenceURI!)) > 20, WAIT)
      process.kill(await hosts[hostOf(pod)]!.pid(`shoal-${id}-a`), 'SIGKILL')
      await until('it counts anew', async () => (await counted(referenceURI!)) <= 20, WAIT)
      assert.equal((await curl('DELETE', `/mec/v1/apps/${id}`)).status, 204)
    }),
  )

  test(
    'the server is killed in the middle of 12 creations, and a node in the middle of its own: what was asked for is there, once',
    logged(async () => {
      const ids = await Promise.all(
        Array.from({ length: 12 }, async (_, i) => {
          const { status, body } = await curl('POST', '/mec/v1/apps', { body: application(`app${i}`, ['a']) })
          assert.equal(status, 201)
          return (body as Shown).id
        }),
      )
      const asked = await Promise.all(ids.map((id) => curl('POST', `/mec/v1/apps/${id}/offload`)))
      assert.deepEqual(
        asked.map(({ status }) => status),
        ids.map(() => 202),
      )
      await until('the first are made', async () => (await all()).length >= 2, { ...WAIT, everyMs: 20 })
      for (const i of [0, 1]) {
        site.nodes[i]!.kill('SIGKILL')
        await site.nodes[i]!.service.ended
      }
      await site.heal()
      const apps = await Promise.all(ids.map(isRunning))
      const names = (await all()).sort()
      assert.deepEqual(names, ids.map((id) => `shoal-${id}-a`).sort())
      const uris = apps.map(({ pods }) => pods[0]!.referenceURI!)
      assert.equal(new Set(uris).size, 12)
      for (const [i, uri] of uris.entries()) assert.match(await answer(uri), new RegExp(`^app${i}/a \\d+$`))

      const gone = await Promise.all(ids.map((id) => curl('DELETE', `/mec/v1/apps/${id}`)))
      assert.deepEqual(
        gone.map(({ status }) => status),
        ids.map(() => 204),
      )
      await nothingLeft()
    }),
  )

  test(
    'a stateful application follows its device, with its state',
    logged(async () => {
      await curl('PUT', '/mec/v1/location', { body: { node: 'h2' } })
      // No link of a network is as short as this: only the entry node itself will do.
      const body = application('follows', ['a'], { requiredDelayMs: 0.001 })
      const { id } = (await curl('POST', '/mec/v1/apps', { body })).body as Shown
      await curl('POST', `/mec/v1/apps/${id}/offload`)
      const [before] = (await isRunning(id)).pods as [Shown['pods'][number]]
      assert.equal(before.node, 'h2')
      await until('it counts', async () => (await counted(before.referenceURI!)) > 20, WAIT)
      const seen = await counted(before.referenceURI!)
      const moved = await curl('PUT', '/mec/v1/location', { body: { node: 'h3' } })
      assert.equal(moved.status, 200, JSON.stringify(moved.body))
      let after: Shown | undefined
      try {
        await until(
          'it has moved',
          async () => {
            after = await shown(id)
            return after.pods[0]!.node === 'h3' && after.pods[0]!.state === 'running'
          },
          WAIT,
        )
      } catch (error) {
        const { stdout } = await site.nodes[1]!.cli(['migrations', '--json'])
        throw new Error(`${(error as Error).message}: ${JSON.stringify(after)} ${stdout}`)
      }
      const { referenceURI } = after!.pods[0]!
      assert.ok(referenceURI!.includes(lab.hosts[2]!.address))
      const first = await counted(referenceURI!)
      assert.ok(first >= seen, `it went on from ${seen}, not from the beginning: ${first}`)
      await until('it goes on', async () => (await counted(referenceURI!)) > first, WAIT)
      await until('the source has none', async () => (await hosts[1]!.names()).length === 0, WAIT)
      assert.deepEqual(await all(), [`shoal-${id}-a`])
      assert.equal((await curl('DELETE', `/mec/v1/apps/${id}`)).status, 204)
      await nothingLeft()
    }),
  )
}

/** The first of these files that the process' cgroup has. */
function limitOf(pid: number, controller: string, files: string[]): string {
  const lines = readFileSync(`/proc/${pid}/cgroup`, 'utf8').trim().split('\n')
  for (const wanted of [controller, '']) {
    const line = lines.find((each) => each.split(':')[1]!.split(',').includes(wanted))
    const path = line?.split(':').slice(2).join(':') ?? ''
    const places = [join('/sys/fs/cgroup', controller, path), join('/sys/fs/cgroup', path)]
    const file = places.flatMap((place) => files.map((each) => join(place, each))).find(existsSync)
    if (line !== undefined && file !== undefined) return readFileSync(file, 'utf8').trim()
  }
  return ''
}
