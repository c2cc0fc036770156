import assert from 'node:assert/strict'
import { once } from 'node:events'
import { Agent, get, type IncomingMessage } from 'node:http'
import { connect, type Socket } from 'node:net'
import { test } from 'node:test'
import { silentLog } from '../../base/index.ts'
import { listenHttp } from '../../cli/http-server.ts'

test('one connection too many is closed, with those that are idle; who is busy stays', async (t) => {
  const warned: unknown[] = []
  const log = { ...silentLog(), warn: (fields: object) => void warned.push(fields) }
  const ends: (() => void)[] = []
  const { address, drain } = await listenHttp(
    'registry',
    { host: '127.0.0.1', port: 0 },
    (req, res) => {
      if (req.url === '/idle') return void res.end('done')
      res.write('begun')
      ends.push(() => res.end(' and ended'))
    },
    { keepAliveMs: 60_000, requestMs: 0, maxConnections: 4, log },
  )
  t.after(() => drain(0))
  const { port } = address
  const ask = async (path: string, agent: Agent): Promise<IncomingMessage> => {
    const [answer] = await once(get({ port, path, agent }), 'response')
    return answer as IncomingMessage
  }
  const busy = await ask('/busy', new Agent({ keepAlive: true }))
  const idle: Socket[] = []
  for (let i = 0; i < 3; i++) {
    const answer = await ask('/idle', new Agent({ keepAlive: true }))
    idle.push(answer.socket)
    answer.resume()
    await once(answer, 'end')
  }

  const gone = idle.map((socket) => once(socket, 'close'))
  const more = Array.from({ length: 3 }, () => connect(port, '127.0.0.1').on('error', () => {}))
  await Promise.all([...gone, once(more[0]!.resume(), 'close')])
  assert.deepEqual(warned, [{ at: `127.0.0.1:${port}`, most: 4 }])

  for (const socket of more) socket.destroy()
  // Until the server has seen those end there may be no room.
  const again = await eventually(() => ask('/idle', new Agent({ keepAlive: false })))
  assert.equal(again.statusCode, 200)
  again.resume()
  for (const end of ends) end()
  let text = ''
  for await (const chunk of busy) text += chunk
  assert.equal(text, 'begun and ended')
})

async function eventually<T>(work: () => Promise<T>): Promise<T> {
  for (const end = performance.now() + 30_000; ; ) {
    try {
      return await work()
    } catch (error) {
      if (performance.now() > end) throw error
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
  }
}
