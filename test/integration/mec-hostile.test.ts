import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect } from 'node:net'
import { describe, test } from 'node:test'
import { setTimeout as wait } from 'node:timers/promises'
import { silentLog } from '../../base/index.ts'
import { createOutbox, type Note } from '../../integration/mec/outbox.ts'
import { assertProblem } from './mec-schemas.ts'
import { APP, contextOf, createAsk, createTables, startMec, startReceiver, until } from './mec-tools.ts'

/** What a server says to raw bytes, until it hangs up. */
async function raw(base: string, text: string): Promise<string> {
  const { hostname, port } = new URL(base)
  const socket = connect(Number(port), hostname)
  socket.on('error', () => {})
  socket.write(text)
  let said = ''
  socket.on('data', (bytes) => {
    said += bytes
  })
  await once(socket, 'close')
  return said
}

describe('requests that are no good', () => {
  test('each gets its own answer, as a problem', async (t) => {
    const { ue, base, mec } = await startMec(t)
    const { token } = await mec.tokens.create('ue-1')
    const json = { 'Content-Type': 'application/json' }
    assertProblem(await ue('POST', '/mec/v1/apps', '{"name":', json), 400)
    assertProblem(await ue('POST', '/mec/v1/apps', 'name=x', { 'Content-Type': 'text/plain' }), 415)
    assertProblem(await ue('POST', '/mec/v1/apps', JSON.stringify({ name: 'x'.repeat(300_000) }), json), 413)
    assertProblem(await ue('GET', '/mec/v1/nothing'), 404)
    assertProblem(await ue('GET', '/mec/v1/apps/%E0%A4%A'), 400)
    const wrongMethod = await ue('PATCH', '/mec/v1/apps', {})
    assertProblem(wrongMethod, 405)
    assert.equal(wrongMethod.headers.get('allow'), 'GET, POST, HEAD')
    assertProblem(await ue('GET', '/mec/v1/apps', undefined, { Accept: 'text/html' }), 406)
    assertProblem(await ue('GET', '/mec/v1/apps?state=running'), 400)
    // A body that claims to be an object's prototype is one with an unknown member.
    assertProblem(await ue('POST', '/mec/v1/apps', '{"__proto__":{"name":"x"},"pods":[]}', json), 400)
    const head = await fetch(`${base}/mec/v1/apps`, {
      method: 'HEAD',
      headers: { Authorization: `Bearer ${token}` },
    })
    assert.deepEqual([head.status, await head.text()], [200, ''])
    assert.equal((await ue('GET', '/mec/v1/apps')).status, 200)
  })

  test('what is no HTTP, and headers that do not end', async (t) => {
    const { base, ue } = await startMec(t)
    assert.match(await raw(base, 'hello\r\n\r\n'), /^HTTP\/1\.1 400 .*problem\+json/s)
    const long = `GET / HTTP/1.1\r\nHost: x\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`
    assert.match(await raw(base, long), /^HTTP\/1\.1 431 .*"status":431/s)
    assert.equal((await ue('GET', '/mec/v1/apps')).status, 200)
  })

  test('bodies that never end hold nobody up', async (t) => {
    const { base, ue, mec, stop } = await startMec(t)
    const { token } = await mec.tokens.create('ue-slow')
    const { hostname, port } = new URL(base)
    const slow = Array.from({ length: 200 }, () => {
      const socket = connect(Number(port), hostname)
      socket.on('error', () => {})
      socket.write(
        `POST /mec/v1/apps HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{`,
      )
      return socket
    })
    // Of one device 32 at a time are let in; the others hear so at once.
    const { status } = await until429(base, token)
    assert.equal(status, 429)
    assert.equal((await ue('POST', '/mec/v1/apps', APP)).status, 201)
    for (const socket of slow) socket.destroy()
    await until(
      'they are gone',
      async () => (await createAsk(base, token)('GET', '/mec/v1/apps')).status === 200,
    )
    await stop()
  })

  async function until429(base: string, token: string) {
    let answer = await createAsk(base, token)('GET', '/mec/v1/apps')
    await until('it is too much', async () => {
      answer = await createAsk(base, token)('GET', '/mec/v1/apps')
      return answer.status === 429
    })
    assertProblem(answer, 429)
    return answer
  }

  test('counts are limited', async (t) => {
    const { ue } = await startMec(t)
    const services = '/amsi/v1/app_mobility_services'
    const body = { serviceConsumerId: { mepId: 'a' } }
    for (let i = 0; i < 64; i++) assert.equal((await ue('POST', services, body)).status, 201)
    assertProblem(await ue('POST', services, body), 403)
    const { body: app } = await ue('POST', '/mec/v1/apps', APP)
    for (let i = 0; i < 64; i++) {
      assert.equal((await ue('POST', '/dev_app/v1/app_contexts', contextOf(app.id))).status, 201)
    }
    assertProblem(await ue('POST', '/dev_app/v1/app_contexts', contextOf(app.id)), 403)
  })
})

describe('callbacks', () => {
  test('a dead one holds up nobody; a redirect is not followed; a slow body is not waited for', async (t) => {
    const { ue } = await startMec(t)
    const device = await startReceiver(t, (res, { path }) => {
      if (path === '/moved') res.writeHead(302, { Location: '/elsewhere' }).end()
      else if (path === '/slow') res.writeHead(200).write('x')
      else if (path === '/mute') return
      else res.writeHead(204).end()
    })
    const { body: app } = await ue('POST', '/mec/v1/apps', APP)
    const place = (callbackReference: string) =>
      ue('POST', '/dev_app/v1/app_contexts', contextOf(app.id, { callbackReference }))
    await place('http://127.0.0.1:1/dead')
    for (const path of ['/mute', '/moved', '/slow', '/good']) await place(device.url(path))
    await until('the good one is told', () => device.got.some(({ path }) => path === '/good'))
    await until(
      'the redirecting one is asked again',
      () => device.got.filter(({ path }) => path === '/moved').length > 1,
    )
    assert.ok(!device.got.some(({ path }) => path === '/elsewhere'))
    assert.equal(device.got.filter(({ path }) => path === '/slow').length, 1)
  })

  const note = (lane: string, over: Partial<Note> = {}) => ({
    lane,
    ue: 'ue-1',
    url: 'http://127.0.0.1:1/dead',
    allowLoopback: true,
    body: { notificationType: 'TestNotification' },
    ...over,
  })

  test('10,000 to a dead host are bounded, and another host is told meanwhile', async (t) => {
    const device = await startReceiver(t)
    const table = createTables()
    let atOnce = 0
    let most = 0
    const outbox = await createOutbox({
      records: table<Note>('outbox'),
      log: silentLog(),
      async send({ url, signal }) {
        if (url.startsWith('http://127.0.0.1:1/')) {
          most = Math.max(most, ++atOnce)
          await wait(5000, undefined, { signal }).catch(() => {})
          atOnce--
          throw new Error('dead')
        }
        return { status: (await fetch(url, { method: 'POST', body: '{}' })).status, text: '' }
      },
    })
    t.after(() => outbox.close())
    for (let i = 0; i < 10_000; i++) await outbox.add(note(`lane-${i % 2000}`, { ue: `ue-${i % 100}` }))
    assert.ok(outbox.size() <= 8192, `${outbox.size()} wait`)
    await outbox.add(note('live', { ue: 'ue-live', url: device.url() }))
    await until('it is told', () => device.got.length === 1)
    assert.ok(most <= 4, `${most} at once`)
  })

  test('in order, again and again, over a restart, and given up in the end', async () => {
    const table = createTables()
    const sent: string[] = []
    let down = true
    let time = 1_000_000
    const start = () =>
      createOutbox({
        records: table<Note>('outbox'),
        log: silentLog(),
        limits: { firstDelayMs: 1, maxDelayMs: 5 },
        now: () => time,
        async send({ body }) {
          if (down) throw new Error('down')
          sent.push((JSON.parse(body!) as { n: string }).n)
          return { status: 204, text: '' }
        },
      })
    const first = await start()
    for (const n of ['a', 'b', 'c']) await first.add(note('lane', { body: { n } }))
    await wait(30)
    await first.close()
    down = false
    time += 1000
    const second = await start()
    await until('all are told', () => second.size() === 0)
    assert.deepEqual(sent, ['a', 'b', 'c'])
    down = true
    await second.add(note('lane', { body: { n: 'd' } }))
    const ticking = setInterval(() => {
      time += 100_000
    }, 5)
    await until('it is given up', () => second.size() === 0)
    clearInterval(ticking)
    assert.deepEqual(sent, ['a', 'b', 'c'])
    await second.close()
  })

  test('a refusal is final, what only failed is not; forgetting and redirecting a lane', async (t) => {
    const device = await startReceiver(t, (res, { path }) =>
      res.writeHead(path === '/gone' ? 410 : 204).end(),
    )
    const outbox = await createOutbox({
      records: createTables()<Note>('outbox'),
      log: silentLog(),
      limits: { firstDelayMs: 60_000 },
    })
    t.after(() => outbox.close())
    await outbox.add(note('refused', { url: device.url('/gone') }))
    await until('it is given up', () => outbox.size() === 0)
    await outbox.add(note('moved'))
    await outbox.add(note('ended'))
    await wait(50)
    await outbox.redirect('moved', device.url('/new'), true)
    await outbox.forget('ended')
    await until('nothing waits', () => outbox.size() === 0)
    assert.deepEqual(
      device.got.map(({ path }) => path),
      ['/gone', '/new'],
    )
  })
})
