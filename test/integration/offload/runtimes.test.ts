import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { silentLog } from '../../../base/index.ts'
import { canRunPods, openPodRuntime, type PodSockets } from '../../../integration/offload/runtimes.ts'
import { pod } from './fleet.ts'

const quiet = new AbortController().signal

interface Asked {
  method: string
  path: string
  body: Record<string, unknown> & { HostConfig?: Record<string, unknown> }
}

/** A docker daemon of which only the answers are there: what it is asked to make is what is looked at. */
async function dockerd(t: TestContext, facts: { bridge: boolean; CgroupDriver: string }) {
  const dir = await mkdtemp(join(tmpdir(), 'shoal-docker-'))
  const asked: Asked[] = []
  const server = createServer(async (request, response) => {
    let text = ''
    for await (const part of request.setEncoding('utf8') as AsyncIterable<string>) text += part
    const path = request.url?.split('?')[0] ?? ''
    const made = asked.some((each) => each.path === '/containers/create')
    asked.push({ method: request.method ?? '', path, body: text === '' ? {} : JSON.parse(text) })
    const replies: Record<string, unknown> = {
      '/info': { CgroupDriver: facts.CgroupDriver },
      '/containers/create': { Id: 'c0ffee' },
      '/containers/pod/start': {},
      ...(facts.bridge ? { '/networks/bridge': { Name: 'bridge' } } : {}),
      ...(made ? { '/containers/pod/json': { Name: '/pod', State: { Status: 'running', Pid: 42 } } } : {}),
    }
    response.statusCode = replies[path] === undefined ? 404 : 200
    response.end(JSON.stringify(replies[path] ?? { message: 'no such thing' }))
  })
  server.listen(join(dir, 'docker.sock'))
  await once(server, 'listening')
  t.after(async () => {
    server.closeAllConnections()
    server.close()
    await rm(dir, { recursive: true, force: true })
  })
  return { socket: join(dir, 'docker.sock'), asked, dir }
}

const open = (sockets: PodSockets, dir: string) =>
  openPodRuntime(sockets, {
    registry: '127.0.0.1:5080',
    dir,
    cgroupParent: '/pods',
    mine: { label: 'shoal.node', value: 'me' },
    log: silentLog(),
  })

async function made(t: TestContext, facts: Parameters<typeof dockerd>[1]) {
  const { socket, asked, dir } = await dockerd(t, facts)
  const { driver, network } = await open({ docker: socket }, dir)
  const spec = pod('a', {
    image: 'docker.io/lab/app:1',
    cpu: 0.25,
    memory: 1e6,
    env: { A: '1' },
    args: ['x'],
  })
  const ports = [{ port: 8080, host: 30000 }]
  const netns = await network.attach('pod', ports, quiet)
  const order = { name: 'pod', labels: { 'shoal.node': 'me' }, spec, netns, ports, log: undefined }
  assert.deepEqual(await driver.start(order, quiet), { pid: 42 })
  return { shared: network.shared, body: asked.find(({ path }) => path === '/containers/create')!.body }
}

test('pods run in containerd where it is there, else in docker, else not', async (t) => {
  const { socket, dir } = await dockerd(t, { bridge: true, CgroupDriver: 'cgroupfs' })
  assert.equal(canRunPods({}), false)
  assert.equal(canRunPods({ containerd: undefined, docker: undefined }), false)
  for (const [sockets, name] of [
    [{ docker: socket }, 'docker'],
    [{ docker: socket, containerd: undefined }, 'docker'],
    [{ docker: socket, containerd: join(dir, 'none.sock') }, 'containerd'],
  ] as const) {
    assert.equal(canRunPods(sockets), true)
    const runtime = await open(sockets, dir)
    assert.equal(runtime.driver.runtime, name)
    runtime.close()
  }
})

test('a docker that does not answer is waited for, and says so when it is asked whether pods can run', async () => {
  const { driver, network } = await open({ docker: '/nonexistent/docker.sock' }, tmpdir())
  assert.equal(network.shared, false)
  assert.match((await driver.unfit(quiet))!, /docker does not answer/)
})

test('docker is told what a pod may have, and publishes its ports on its bridge', async (t) => {
  const { shared, body } = await made(t, { bridge: true, CgroupDriver: 'cgroupfs' })
  assert.equal(shared, false)
  assert.equal(body.Image, '127.0.0.1:5080/docker.io/lab/app:1')
  assert.deepEqual([body.Cmd, body.Env, body.Hostname], [['x'], ['A=1'], 'a'])
  const { NanoCpus, Memory, CgroupParent, NetworkMode, PortBindings, RestartPolicy } = body.HostConfig!
  // Less than 6 MiB docker takes for a mistake.
  assert.deepEqual([NanoCpus, Memory, CgroupParent], [250e6, 6 * 2 ** 20, '/pods'])
  assert.deepEqual([NetworkMode, PortBindings], ['default', { '8080/tcp': [{ HostPort: '30000' }] }])
  assert.deepEqual(RestartPolicy, { Name: 'no' })
})

test('without a bridge pods live in the node’s own network; systemd places their cgroups itself', async (t) => {
  const { shared, body } = await made(t, { bridge: false, CgroupDriver: 'systemd' })
  assert.equal(shared, true)
  const { CgroupParent, NetworkMode, PortBindings } = body.HostConfig!
  assert.deepEqual([CgroupParent, NetworkMode, PortBindings], [undefined, 'host', undefined])
  assert.equal(body.Hostname, undefined)
})
