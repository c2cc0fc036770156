import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type RequestListener } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { isShoalError } from '../../../base/index.ts'
import { createDockerApi } from '../../../integration/runtime/docker/api.ts'
import { properName } from '../../../integration/runtime/docker/container.ts'
import { createDockerRuntime } from '../../../integration/runtime/docker/index.ts'
import type { PrepareOptions } from '../../../integration/runtime/index.ts'
import { quiet } from './layer-support.ts'

/** A daemon that answers what a test says: for what a real one does not do when it is asked to. */
async function daemon(t: TestContext, listener: RequestListener): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'shoal-docker-'))
  const socket = join(dir, 'docker.sock')
  const server = createServer(listener).listen(socket)
  await once(server, 'listening')
  t.after(async () => {
    server.closeAllConnections()
    server.close()
    await rm(dir, { recursive: true, force: true })
  })
  return socket
}

const answers =
  (replies: Record<string, unknown>): RequestListener =>
  (request, response) => {
    const reply = replies[request.url?.split('?')[0] ?? '']
    response.statusCode = reply === undefined ? 404 : 200
    response.end(JSON.stringify(reply ?? { message: 'no such thing' }))
  }

test('what docker refuses is an error of its kind, with its own words', async (t) => {
  const codes = { 404: 'NOT_FOUND', 409: 'BUSY', 400: 'RUNTIME', 500: 'RUNTIME' } as const
  const socket = await daemon(t, (request, response) => {
    response.statusCode = Number(request.url?.split('/')[2])
    response.end('{"message":"because"}')
  })
  for (const [status, code] of Object.entries(codes))
    await assert.rejects(
      createDockerApi(socket)(quiet, (docker) => docker.getContainer(status).start()),
      (error) => isShoalError(error, code) && /because/.test(error.message),
    )
})

test('nobody at the socket, answers that stall, are cut off or are none', async (t) => {
  const api = createDockerApi(
    await daemon(t, (request, response) => {
      const asked = request.url?.split('/')[2]
      if (asked === 'none') response.end('<html>')
      else if (asked === 'cut') response.writeHead(200, { 'content-length': 100 }).write('{"a":')
      if (asked === 'cut') setTimeout(() => response.destroy(), 50)
    }),
  )
  const inspect = (id: string, signal = quiet, of = api): Promise<unknown> =>
    of(signal, (docker) => docker.getContainer(id).inspect(), 500)
  await assert.rejects(inspect('none'), (error) => isShoalError(error, 'RUNTIME'))
  await assert.rejects(inspect('cut'), (error) => isShoalError(error, 'RUNTIME'))
  await assert.rejects(inspect('stall'), (error) => isShoalError(error, 'TIMEOUT'))
  const stop = new AbortController()
  setTimeout(() => stop.abort(), 50)
  await assert.rejects(inspect('stall', stop.signal), (error) => isShoalError(error, 'ABORTED'))
  const nobody = createDockerApi('/nowhere/docker.sock')
  await assert.rejects(inspect('any', quiet, nobody), (error) => isShoalError(error, 'RUNTIME'))
})

test('the socket that was named is asked, whatever DOCKER_HOST says', async (t) => {
  const before = process.env.DOCKER_HOST
  process.env.DOCKER_HOST = 'tcp://127.0.0.1:1'
  t.after(() => {
    if (before === undefined) delete process.env.DOCKER_HOST
    else process.env.DOCKER_HOST = before
  })
  const api = createDockerApi(await daemon(t, answers({ '/containers/a/json': { Id: 'a' } })))
  const found = await api(quiet, (docker) => docker.getContainer('a').inspect())
  assert.equal(found.Id, 'a')
})

test('a docker that cannot checkpoint says why', async (t) => {
  const info = {
    ServerVersion: '20.10.24',
    DockerRootDir: '/nowhere',
    Driver: 'vfs',
    ExperimentalBuild: false,
    DefaultRuntime: 'none',
    Runtimes: { none: { path: 'shoal-test-none' } },
  }
  const socket = await daemon(t, answers({ '/info': info }))
  const facts = await createDockerRuntime({ socket, registry: '127.0.0.1:1' }).facts(quiet)
  assert.deepEqual(facts.can, { checkpoint: false, restore: false, run: true })
  const why = facts.why.join('\n')
  for (const each of [/experimental/, /vfs/, /\/nowhere/, /shoal-test-none is not installed/])
    assert.match(why, each)
})

test('what cannot be made again is refused before anything is made', async (t) => {
  const made: string[] = []
  const socket = await daemon(t, (request, response) => {
    if (request.method === 'POST') made.push(request.url ?? '')
    answers({})(request, response)
  })
  const runtime = createDockerRuntime({ socket, registry: '127.0.0.1:1' })
  const options = (HostConfig: object, change: Partial<PrepareOptions> = {}): PrepareOptions => ({
    name: 'moved',
    image: 'docker.io/lab/app:1',
    recreation: {
      runtime: 'docker',
      name: 'old',
      image: { reference: 'docker.io/lab/app:1', digest: undefined },
      labels: {},
      spec: { ociVersion: '1.0.2' },
      own: { Config: { Image: 'lab/app:1' }, HostConfig, networks: {} },
    },
    ...change,
  })
  for (const bad of [
    options({ NetworkMode: 'container:abc' }),
    options({ PidMode: 'container:abc' }),
    options({ IpcMode: 'container:abc' }),
    options({}, { netns: '/run/netns/x' }),
    options({}, { image: undefined }),
    options({}, { recreation: { ...options({}).recreation, own: {} } }),
  ])
    await assert.rejects(runtime.prepare(bad, quiet), (error) => isShoalError(error, 'UNFIT'))
  for (const name of ['', '-x', 'a/b', '../x'])
    await assert.rejects(runtime.prepare(options({}, { name }), quiet), (error) =>
      isShoalError(error, 'NAME_INVALID'),
    )
  assert.deepEqual(made, [])
})

test('an image has the name that other machines know it by', () => {
  const digest = `sha256:${'a'.repeat(64)}`
  for (const [name, proper] of [
    ['redis', 'docker.io/library/redis:latest'],
    ['lab/app:1', 'docker.io/lab/app:1'],
    ['quay.io/a/b:2', 'quay.io/a/b:2'],
    [`127.0.0.1:5080/quay.io/a/b@${digest}`, `quay.io/a/b@${digest}`],
    ['127.0.0.1:5080/docker.io/library/redis:7', 'docker.io/library/redis:7'],
  ])
    assert.equal(properName(name!, '127.0.0.1:5080'), proper)
})
