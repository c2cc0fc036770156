import assert from 'node:assert/strict'
import { describe, type TestContext, test } from 'node:test'
import { parseHealth } from '../../cli/commands/migrate.ts'
import { assertDescribed } from './described.ts'
import { shoal } from './shoal.ts'
import { MIGRATION, standInMigrations } from './standin-migrations.ts'
import { startApi } from './standins.ts'

async function start(t: TestContext, given: Parameters<typeof standInMigrations>[0] = {}) {
  const node = await startApi({ platform: standInMigrations(given) })
  t.after(() => node.close())
  const api = `127.0.0.1:${node.port}`
  return {
    run: (...args: string[]) => shoal([...args, '--api', api]),
    async post(path: string, body?: unknown) {
      const answer = await fetch(`${node.url}${path}`, {
        method: 'POST',
        ...(body === undefined
          ? {}
          : { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }),
      })
      return { status: answer.status, headers: Object.fromEntries(answer.headers), text: await answer.text() }
    },
  }
}

describe('migrations', () => {
  test('migrate tells what it cost', async (t) => {
    const { run } = await start(t)
    const { status, out, err } = await run('migrate', 'redis', '--to', 'edge-2', '--rounds', '3')
    assert.equal(status, 0, err)
    assert.match(
      out,
      /^redis runs on edge-2: frozen for 0\.42 s, 9\.0 s in all\n2 rounds, .* sent, .*frozen\n$/,
    )
    const listed = await run('migrations')
    assert.match(listed.out, /^ID .*FROZEN.*\nm1 +redis +to b +done +ended +2 .* 0\.42 s/)
    const json = JSON.parse((await run('migrate', 'redis', '--to', 'edge-2', '--json')).out)
    assert.deepEqual(json, JSON.parse(JSON.stringify(MIGRATION)))
  })

  test('a refusal says why, and that nothing was touched', async (t) => {
    const { run } = await start(t, {
      migration: { state: 'refused', reason: 'there is no CRIU here that starts', rounds: [] },
    })
    const { status, err } = await run('migrate', 'redis', '--to', 'edge-2')
    assert.equal(status, 1)
    assert.match(err, /m1 was refused, and the container runs here untouched: there is no CRIU/)
  })

  test('an undecided one is decided by a person', async (t) => {
    const { run, post } = await start(t, { migration: { state: 'undecided', reason: 'look there' } })
    const moved = await run('migrate', 'redis', '--to', 'edge-2')
    assert.match(moved.err, /m1 is undecided: look there/)
    assert.match((await run('migrations')).out, /m1 undecided: look there/)
    const decided = await run('migrations', 'decide', 'm1', 'source')
    assert.deepEqual([decided.status, decided.out], [0, 'redis runs at the source: rolled-back\n'])
    const again = await post('/api/v1/migrations/m1/decide', { side: 'source' })
    assert.equal(again.status, 409)
    assertDescribed('post', '/api/v1/migrations/{id}/decide', again)
    assert.equal((await run('migrations', 'decide', 'm1', 'both')).status, 2)
  })

  test('one is called off by a person, once', async (t) => {
    const { run, post } = await start(t, { migration: { state: 'running', phase: 'copying' } })
    const path = '/api/v1/migrations/m1/cancel'
    const unknown = await post(path)
    assert.equal(unknown.status, 404)
    await post('/api/v1/migrations', { container: 'redis', to: 'edge-2' })
    const { status, out, err } = await run('migrations', 'cancel', 'm1')
    assert.deepEqual([status, out], [0, 'redis runs here untouched: called-off\n'], err)
    const late = await post(path)
    assert.equal(late.status, 409)
    for (const answer of [unknown, late]) assertDescribed('post', '/api/v1/migrations/{id}/cancel', answer)
    assert.match((await run('migrations', 'cancel', 'm1')).err, /too late to call it off/)
  })

  test('drain names what it had to leave, and fails then', async (t) => {
    const clean = await start(t)
    assert.deepEqual(await clean.run('drain').then(({ status, out }) => [status, out]), [
      0,
      'redis runs on b\n',
    ])
    const { run, post } = await start(t, { left: 'it has the device /dev/kvm' })
    const { status, out } = await run('drain')
    assert.equal(status, 1)
    assert.match(out, /vm was not moved: it has the device/)
    assertDescribed('post', '/api/v1/drain', await post('/api/v1/drain'))
  })

  test('what is no request', async (t) => {
    const { post, run } = await start(t)
    const path = '/api/v1/migrations'
    const good = { container: 'redis', to: 'edge-2' }
    for (const [body, status] of [
      [good, 202],
      [{ ...good, health: { kind: 'tcp', host: '127.0.0.1', port: 6379 } }, 202],
      [{ ...good, health: { kind: 'exec', args: ['true'] }, tcpEstablished: true }, 202],
      [{ ...good, container: 'mysql' }, 404],
      [{ ...good, to: 'nowhere' }, 404],
      [{ ...good, to: 7 }, 400],
      [{ ...good, rounds: -1 }, 400],
      [{ ...good, rounds: 1.5 }, 400],
      [{ ...good, runtime: 'podman' }, 400],
      [{ ...good, health: { kind: 'http', url: 'ftp://x' } }, 400],
      [{ ...good, health: { kind: 'tcp', host: 'a', port: 0 } }, 400],
      [{ ...good, health: { kind: 'exec', args: [] } }, 400],
      [{ ...good, health: 'yes' }, 400],
      [{ ...good, extra: 1 }, 400],
      [{ to: 'edge-2' }, 400],
      [[], 400],
    ] as const) {
      const answer = await post(path, body)
      assert.equal(answer.status, status, JSON.stringify(body))
      assertDescribed('post', path, answer)
    }
    assert.equal((await run('migrate', 'redis')).status, 2)
    assert.equal((await run('migrate', 'redis', '--to', 'edge-2', '--rounds', 'many')).status, 2)
    assert.equal((await run('migrate', 'redis', '--to', 'edge-2', '--health', 'ping')).status, 2)
  })

  test('health checks as they are written', () => {
    assert.deepEqual(parseHealth('tcp:[::1]:80'), { kind: 'tcp', host: '::1', port: 80 })
    assert.deepEqual(parseHealth('exec: redis-cli ping'), { kind: 'exec', args: ['redis-cli', 'ping'] })
    assert.deepEqual(parseHealth('http://127.0.0.1:8080/ok'), {
      kind: 'http',
      url: 'http://127.0.0.1:8080/ok',
    })
  })
})
