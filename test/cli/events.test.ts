import assert from 'node:assert/strict'
import { once } from 'node:events'
import { get, type IncomingMessage } from 'node:http'
import { connect } from 'node:net'
import { test } from 'node:test'
import { createEventParser, type ServerEvent } from '../../cli/event-parser.ts'
import { startApi, task } from './standins.ts'

/** Follows the stream; `next` resolves with the next event that `wanted` accepts. */
async function follow(url: string) {
  const req = get(url)
  const [res] = (await once(req, 'response')) as [IncomingMessage]
  const events: ServerEvent[] = []
  let wake = (): void => {}
  let raw = ''
  const parser = createEventParser((event) => {
    events.push(event)
    wake()
  })
  res.setEncoding('utf8')
  res.on('data', (chunk: string) => {
    raw += chunk
    parser(chunk)
    wake()
  })
  res.on('error', () => {})
  const until = async (done: () => boolean): Promise<void> => {
    while (!done()) await new Promise<void>((resolve) => (wake = resolve))
  }
  return { res, events, until, raw: () => raw, stop: () => req.destroy() }
}

test('a reader sees all as it is, then the changes, each subject once a beat', async () => {
  const node = await startApi({ events: { everyMs: 30 } })
  const reader = await follow(`${node.url}/api/v1/events`)
  await reader.until(() => reader.events.length >= 3)
  assert.deepEqual(
    reader.events.map(({ type }) => type),
    ['members', 'task', 'task'],
  )

  for (let bytesHere = 0; bytesHere < 500; bytesHere++) {
    node.emit({ type: 'task', task: task('running', { bytesHere }) })
  }
  const before = reader.events.length
  await reader.until(() => reader.events.length > before)
  const told = reader.events.slice(before)
  assert.equal(told.length, 1, 'five hundred changes of one blob are one event')
  assert.match(told[0]!.data, /"bytesHere":499/)

  node.emit({ type: 'task', task: task('running', { state: 'done' }) })
  await reader.until(() => reader.events.at(-1)!.data.includes('"state":"done"'))
  node.emit({ type: 'members', members: [] })
  await reader.until(() => reader.events.at(-1)!.type === 'members')
  reader.stop()
  await node.close()
})

test('only the types that were asked for come', async () => {
  const node = await startApi({ events: { everyMs: 1 } })
  const reader = await follow(`${node.url}/api/v1/events?types=pull`)
  node.emit({ type: 'members', members: [] })
  const body = JSON.stringify({ reference: 'redis' })
  await fetch(`${node.url}/api/v1/images`, {
    method: 'POST',
    body,
    headers: { 'content-type': 'application/json' },
  })
  node.gates[0]!.progress(10)
  await reader.until(() => reader.events.length > 0)
  node.gates[0]!.go()
  await reader.until(() => reader.events.at(-1)!.data.includes('"state":"done"'))
  assert.ok(reader.events.every(({ type }) => type === 'pull'))
  reader.stop()
  await node.close()
})

test('an idle stream shows that it lives', async () => {
  const node = await startApi({ events: { heartbeatMs: 10 } })
  const reader = await follow(`${node.url}/api/v1/events?types=pull`)
  await reader.until(() => reader.raw().includes(': still here\n\n: still here'))
  assert.equal(reader.events.length, 0)
  reader.stop()
  await node.close()
})

test('a reader that does not read is dropped, the others are not', async () => {
  const node = await startApi({ events: { everyMs: 1, maxUnread: 64 * 1024 } })
  const good = await follow(`${node.url}/api/v1/events?types=task`)
  // A connection that asks and then never reads: the kernel's buffers fill, then ours.
  const bad = connect(node.port, node.host)
  bad.on('error', () => {})
  bad.write('GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n')
  bad.pause()
  await good.until(() => good.events.length >= 2)
  const sockets = (): Promise<number> =>
    new Promise((resolve) => node.server.getConnections((_error, count) => resolve(count)))
  while ((await sockets()) < 2) await new Promise((resolve) => setTimeout(resolve, 5))
  const label = 'x'.repeat(30_000)
  for (let round = 0; (await sockets()) > 1; round++) {
    assert.ok(round < 5000, 'it is dropped at some time')
    node.emit({ type: 'task', task: task(`blob ${round}`, { label, state: 'done' }) })
    const marker = task(`blob ${round}`).digest
    await good.until(() => good.events.at(-1)!.data.includes(marker))
    good.events.length = 1
  }
  node.emit({ type: 'task', task: task('last', { state: 'done' }) })
  await good.until(() => good.events.at(-1)!.data.includes(task('last').digest))
  bad.destroy()
  good.stop()
  await node.close()
})

test('readers are limited, and nobody listens when nobody reads', async () => {
  const node = await startApi({ events: { maxReaders: 1 } })
  const reader = await follow(`${node.url}/api/v1/events`)
  assert.equal(node.listeners.size, 1)
  assert.equal((await fetch(`${node.url}/api/v1/events`)).status, 429)
  reader.stop()
  while (node.listeners.size > 0) await new Promise((resolve) => setTimeout(resolve, 5))
  await node.close()
})
