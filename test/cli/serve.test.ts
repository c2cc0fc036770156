import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { get, type IncomingMessage } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import { silentLog } from '../../base/index.ts'
import { loadConfig } from '../../cli/config.ts'
import type { Rooms } from '../../cli/rooms.ts'
import { startDaemon } from '../../cli/serve.ts'
import { standInPlatform } from './platform-twin.ts'
import { listen, standInCollect, standInManager, standInPins, standInStore } from './standins.ts'

async function makeDir(t: TestContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'shoal-serve-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  return dir
}

/** Starts the fixture; `where` resolves with its first line. */
async function start(t: TestContext, mode = '') {
  const dir = await makeDir(t)
  const closedFile = join(dir, 'closed')
  const child = spawn(process.execPath, [
    join(import.meta.dirname, 'daemon-fixture.ts'),
    join(dir, 'data'),
    closedFile,
    mode,
  ])
  t.after(() => child.kill('SIGKILL'))
  const exit = once(child, 'exit') as Promise<[number | null, string | null]>
  let log = ''
  child.stderr.on('data', (chunk: Buffer) => {
    log += chunk
  })
  const line = once(child.stdout, 'data').then(
    ([chunk]) => JSON.parse(String(chunk)) as { id: string; name: string; registry: string; api: string },
  )
  return {
    dir,
    child,
    exit,
    line,
    log: () => log,
    closed: () => readFile(closedFile, 'utf8').catch(() => ''),
  }
}

describe('signals', { concurrency: true }, () => {
  test('SIGTERM lets a request end, ends streams and pulls, closes all in order, and ends with 0', async (t) => {
    const node = await start(t)
    const { registry, api, id, name } = await node.line
    assert.deepEqual([id, name], ['12D3KooWself', 'edge-1'])
    const events = get(`http://${api}/api/v1/events`)
    await once(events, 'response')
    events.on('error', () => {})
    await fetch(`http://${api}/api/v1/images`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '{"reference":"redis"}',
    })
    const [slow] = (await once(get(`http://${registry}/slow`), 'response')) as [IncomingMessage]
    node.child.kill('SIGTERM')
    let text = ''
    for await (const chunk of slow) text += chunk
    assert.equal(text, 'begun and ended')
    assert.deepEqual(await node.exit, [0, null])
    assert.equal(await node.closed(), 'platform content proxy manager upstream store')
  })

  test('a second signal ends it at once', async (t) => {
    const node = await start(t, 'hang')
    await node.line
    node.child.kill('SIGINT')
    while (!node.log().includes('stopping')) await new Promise((resolve) => setTimeout(resolve, 5))
    node.child.kill('SIGINT')
    assert.deepEqual(await node.exit, [1, null])
  })

  test('a part that does not close cannot keep it alive', async (t) => {
    const node = await start(t, 'hang')
    await node.line
    node.child.kill('SIGTERM')
    assert.deepEqual(await node.exit, [1, null])
    assert.match(node.log(), /did not close in time/)
    assert.equal(await node.closed(), 'platform content proxy')
  })

  test('the signal counts while it is still starting', async (t) => {
    const node = await start(t, 'slow-start')
    const token = join(node.dir, 'data/api.token')
    while (!(await stat(token).catch(() => undefined)))
      await new Promise((resolve) => setTimeout(resolve, 10))
    node.child.kill('SIGTERM')
    assert.deepEqual(await node.exit, [1, null])
  })
})

/** Rooms of which one waits or fails. */
function rooms(over: Partial<Rooms> = {}): Rooms {
  return {
    openStore: async () => standInStore(),
    createUpstream: async () => ({ close: async () => {} }) as never,
    createManager: async () => standInManager().manager,
    createProxy: async () => ({
      listener: (_req, res) => void res.end('from the proxy'),
      pull: async () => ({ blobs: [] }),
      images: async () => [],
      pins: standInPins(),
      repair: () => {},
      local: async () => [],
      collect: standInCollect,
      storedName: (reference) => reference,
      host: () => {},
      close: async () => {},
    }),
    followContent: async () => ({ close: async () => {} }),
    createPlatform: async () => standInPlatform(),
    ...over,
  }
}

async function config(t: TestContext, flags: Record<string, string> = {}) {
  const dir = await makeDir(t)
  const all = { 'data-dir': join(dir, 'new/data'), registry: '127.0.0.1:0', api: '127.0.0.1:0', ...flags }
  return await loadConfig({ flags: all, env: {} })
}

test('it is alive, not ready and says why while the store opens; then it serves', async (t) => {
  let open = (): void => {}
  let where = ''
  const settings = await config(t)
  const starting = startDaemon(settings, {
    rooms: rooms({
      openStore: async ({ addresses }) => {
        where = `http://127.0.0.1:${addresses.api.port}`
        await new Promise<void>((resolve) => {
          open = resolve
        })
        return standInStore()
      },
    }),
    log: silentLog(),
    version: '1',
  })
  while (where === '') await new Promise((resolve) => setTimeout(resolve, 5))
  assert.equal((await fetch(`${where}/healthz`)).status, 200)
  const ready = await fetch(`${where}/readyz`)
  assert.equal(ready.status, 503)
  assert.match(await ready.text(), /the store is being opened/)
  const status = await fetch(`${where}/api/v1/status`)
  assert.equal(status.status, 503)
  assert.equal(status.headers.get('content-type'), 'application/problem+json')
  open()
  const daemon = await starting
  assert.equal((await fetch(`${where}/readyz`)).status, 200)
  const registry = await fetch(`http://127.0.0.1:${daemon.addresses.registry.port}/v2/`)
  assert.equal(await registry.text(), 'from the proxy')

  const token = (await readFile(settings.apiToken, 'utf8')).trim()
  assert.equal(token.length, 43)
  assert.equal((await stat(settings.apiToken)).mode & 0o777, 0o600)
  await daemon.close()
  const again = await startDaemon(settings, { rooms: rooms(), log: silentLog(), version: '1' })
  assert.equal((await readFile(settings.apiToken, 'utf8')).trim(), token, 'the token stays')
  await again.close()
})

test('a network that does not settle keeps it from being ready', async (t) => {
  const { manager } = standInManager()
  const members = {
    ...manager.members,
    get settled() {
      return Promise.reject(new Error('no bootstrap address answered'))
    },
  }
  const daemon = await startDaemon(await config(t), {
    rooms: rooms({ createManager: async () => Object.assign(manager, { members }) }),
    log: silentLog(),
    version: '1',
  })
  const answer = await fetch(`http://127.0.0.1:${daemon.addresses.api.port}/readyz`)
  assert.equal(answer.status, 503)
  assert.match(await answer.text(), /no bootstrap address answered/)
  await daemon.close()
})

test('a port that is taken, an empty token, a room that fails: a clear error, and nothing stays open', async (t) => {
  const taken = await listen((_req, res) => void res.end())
  t.after(() => taken.close())
  const busy = await config(t, { api: `127.0.0.1:${taken.port}` })
  const deps = { rooms: rooms(), log: silentLog(), version: '1' }
  await assert.rejects(startDaemon(busy, deps), {
    code: 'CONFIG',
    message: `the API cannot listen on 127.0.0.1:${taken.port}: something else listens there already`,
  })
  const closed: string[] = []
  const failing = rooms({
    openStore: async () => ({ ...standInStore(), close: async () => void closed.push('store') }),
    createManager: async () => {
      throw new Error('no manager')
    },
  })
  await assert.rejects(startDaemon(await config(t), { ...deps, rooms: failing }), { message: 'no manager' })
  assert.deepEqual(closed, ['store'])

  const settings = await config(t, { 'api-token': join(await makeDir(t), 'token') })
  await writeFile(settings.apiToken, '\n')
  await assert.rejects(startDaemon(settings, deps), { code: 'CONFIG', message: /is empty or unreadable/ })
})
