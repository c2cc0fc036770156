import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { APP, startMec } from '../integration/mec-tools.ts'
import { assertDescribed } from './described.ts'
import { standInPlatform } from './platform-twin.ts'
import { shoal } from './shoal.ts'
import { startApi } from './standins.ts'

const OFFER = {
  appName: 'detector',
  appProvider: 'plant',
  appDescription: 'Finds what is on the belt',
  application: APP,
}

async function startBoth(t: Parameters<typeof startMec>[0]) {
  const node = await startMec(t)
  const api = await startApi({ platform: { ...standInPlatform(), mec: node.mec } })
  t.after(() => api.close())
  const at = ['--api', `127.0.0.1:${api.port}`]
  return {
    ...node,
    run: (...args: string[]) => shoal([...args, ...at]),
    async send(method: string, path: string, body?: unknown) {
      const answer = await fetch(`${api.url}${path}`, {
        method,
        ...(body === undefined
          ? {}
          : { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }),
      })
      return { status: answer.status, headers: Object.fromEntries(answer.headers), text: await answer.text() }
    },
  }
}

describe('shoal mec', () => {
  test('a token is made, lets a device in, is listed and revoked', async (t) => {
    const { run, ask } = await startBoth(t)
    const made = await run('mec', 'token', 'create', 'camera-7', '--expires', '30d')
    assert.equal(made.status, 0, made.err)
    const token = made.out.trim()
    assert.match(token, /^[\w-]{12}\.[\w-]{43}$/)
    assert.equal((await ask(token)('GET', '/mec/v1/apps')).status, 200)

    const listed = await run('mec', 'token', 'ls')
    assert.match(listed.out, /^DEVICE +ID +MADE +EXPIRES\ncamera-7 +[\w-]{12} +\d+s ago +\d{4}-/)
    assert.ok(!listed.out.includes(token.split('.')[1]!))
    const json = JSON.parse((await run('mec', 'token', 'ls', '--json')).out)
    assert.deepEqual(
      json.map(({ ue }: { ue: string }) => ue),
      ['camera-7', 'ue-1'],
    )

    assert.equal((await run('mec', 'token', 'revoke', 'camera-7')).out, '1 token is revoked\n')
    assert.equal((await ask(token)('GET', '/mec/v1/apps')).status, 401)
    const again = await run('mec', 'token', 'revoke', 'camera-7')
    assert.deepEqual([again.status, /no token and no device/.test(again.err)], [1, true])
    const bad = await run('mec', 'token', 'create', 'x'.repeat(33))
    assert.deepEqual([bad.status, /32 at most/.test(bad.err)], [1, true])
  })

  test('an application is offered, listed and taken back', async (t) => {
    const { run, ue } = await startBoth(t)
    const dir = await mkdtemp(join(tmpdir(), 'shoal-mec-'))
    t.after(() => rm(dir, { recursive: true }))
    const file = join(dir, 'detector.json')
    await writeFile(file, JSON.stringify({ ...OFFER, appDId: 'detector' }))
    assert.equal((await run('mec', 'app', 'add', file)).out, 'detector of plant is offered as detector\n')
    assert.match((await run('mec', 'app', 'ls')).out, /^APPDID .*\ndetector +detector +plant +1\.0 +all\n$/)
    assert.equal((await ue('GET', '/dev_app/v1/app_list?appName=detector')).body.appList.length, 1)
    assert.equal((await run('mec', 'app', 'rm', 'detector')).out, 'detector is not offered any longer\n')
    assert.equal((await run('mec', 'app', 'ls')).out, 'no applications are offered\n')
    assert.equal((await run('mec', 'app', 'rm', 'detector')).status, 1)

    await writeFile(file, '{"appName":7}')
    const wrong = await run('mec', 'app', 'add', file)
    assert.deepEqual([wrong.status, /appName must be a string/.test(wrong.err)], [2, true])
    await writeFile(file, '{')
    assert.match((await run('mec', 'app', 'add', file)).err, /it is no JSON/)
  })

  test('answers are as the description has them', async (t) => {
    const { send } = await startBoth(t)
    const tokens = '/api/v1/mec/tokens'
    const apps = '/api/v1/mec/apps'
    const made = await send('POST', tokens, { ue: 'a', expiresInMs: 1000 })
    assertDescribed('post', tokens, made)
    for (const body of [{}, { ue: 'a b' }, { ue: 'a', expiresInMs: 0 }, { ue: 'a', more: 1 }]) {
      const answer = await send('POST', tokens, body)
      assert.equal(answer.status, 400)
      assertDescribed('post', tokens, answer)
    }
    assertDescribed('get', tokens, await send('GET', tokens))
    const id = (JSON.parse(made.text) as { id: string }).id
    assertDescribed('delete', `${tokens}/{id}`, await send('DELETE', `${tokens}/${id}`))
    assertDescribed('delete', `${tokens}/{id}`, await send('DELETE', `${tokens}/${id}`))

    const offered = await send('POST', apps, { ...OFFER, vendorId: 'v', serviceCont: true, devices: ['a'] })
    assert.equal(offered.status, 201)
    assertDescribed('post', apps, offered)
    assertDescribed('post', apps, await send('POST', apps, { ...OFFER, appName: 'x'.repeat(33) }))
    assertDescribed('get', apps, await send('GET', apps))
    const { appDId } = JSON.parse(offered.text) as { appDId: string }
    assertDescribed('delete', `${apps}/{id}`, await send('DELETE', `${apps}/${appDId}`))
    assertDescribed('delete', `${apps}/{id}`, await send('DELETE', `${apps}/${appDId}`))
  })

  test('a daemon without the MEC API says so', async (t) => {
    const api = await startApi()
    t.after(() => api.close())
    const { status, err } = await shoal(['mec', 'token', 'create', 'a', '--api', `127.0.0.1:${api.port}`])
    assert.deepEqual([status, err], [2, 'shoal: this daemon has no MEC API: start it with --mec ADDR:PORT\n'])
  })
})
