import { randomBytes } from 'node:crypto'
import { connect, type Socket } from 'node:net'

/**
 * A client of Redis as a program of its own, since it runs in a namespace of a lab. `write` keeps writing and remembers what was acknowledged, `poll`
 * asks every 10 ms whether it answers; each prints what it saw, as JSON, when its input ends. `fill` writes so many MiB.
 */
const VALUE = 800
const PER_MIB = Math.floor(2 ** 20 / VALUE)
/** How long an answer may take before the connection is given up. */
const PATIENCE_MS = 300
const FILL_MS = 60_000

interface Link {
  socket: Socket
  /** Resolves to the replies to these commands, in order. Values come as they are, nothing as undefined. */
  ask(commands: string[][]): Promise<(string | undefined)[]>
}

function encode(parts: string[]): string {
  return `*${parts.length}\r\n${parts.map((part) => `$${Buffer.byteLength(part)}\r\n${part}\r\n`).join('')}`
}

function open(host: string, patienceMs: number): Promise<Link> {
  const socket = connect(6379, host)
  socket.setNoDelay(true)
  let text = ''
  let replies: (string | undefined)[] = []
  let wanted = 0
  let settle: ((error?: Error) => void) | undefined
  const timer = setTimeout(() => socket.destroy(new Error('no answer')), patienceMs)
  const parse = (): void => {
    for (;;) {
      const end = text.indexOf('\r\n')
      if (end < 0) return
      if (text[0] === '$' && !text.startsWith('$-1')) {
        const length = Number(text.slice(1, end))
        if (text.length < end + 4 + length) return
        replies.push(text.slice(end + 2, end + 2 + length))
        text = text.slice(end + 4 + length)
      } else {
        if (text[0] === '-') return void socket.destroy(new Error(text.slice(1, end)))
        replies.push(text[0] === '$' ? undefined : text.slice(1, end))
        text = text.slice(end + 2)
      }
    }
  }
  socket.on('data', (part) => {
    text += part.toString('latin1')
    parse()
    if (replies.length >= wanted && wanted > 0) settle?.()
  })
  return new Promise((resolve, reject) => {
    const fail = (error?: Error): void => {
      clearTimeout(timer)
      const gone = error ?? new Error('closed')
      reject(gone)
      settle?.(gone)
    }
    socket.on('error', fail)
    socket.on('close', () => fail())
    socket.on('connect', () =>
      resolve({
        socket,
        ask: (commands) =>
          new Promise((answer, refuse) => {
            if (socket.destroyed) return refuse(new Error('closed'))
            replies = []
            wanted = commands.length
            timer.refresh()
            settle = (error) => {
              settle = undefined
              wanted = 0
              clearTimeout(timer)
              if (error) refuse(error)
              else answer(replies)
            }
            socket.write(commands.map(encode).join(''))
          }),
      }),
    )
  })
}

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))
const value = (mark: number): string => `${mark}:${randomBytes(VALUE / 2).toString('hex')}`.slice(0, VALUE)
const keyOf = (number: number): string => `key:${number}`

let stopped = false
const stop = new Promise<void>((resolve) => {
  process.stdin.on('end', () => {
    stopped = true
    resolve()
  })
  process.stdin.resume()
})

/** To the first of the hosts that answers within the time. */
function openAny(hosts: string[], patienceMs: number): Promise<Link> {
  return Promise.any(
    hosts.map(async (host) => {
      const link = await open(host, patienceMs)
      // A frozen one takes connections too.
      await link.ask([['PING']])
      return link
    }),
  )
}

async function fill(hosts: string[], mib: number): Promise<void> {
  const link = await openAny(hosts, FILL_MS)
  for (let i = 0; i < mib * PER_MIB; i += 500) {
    await link.ask(Array.from({ length: 500 }, (_, j) => ['SET', keyOf(i + j), value(0)]))
  }
  link.socket.destroy()
}

/** So many SETs a second of random keys out of so many MiB. */
async function write(hosts: string[], mib: number, perSecond: number): Promise<unknown> {
  const acknowledged = new Map<string, number>()
  let mark = 0
  let lost = 0
  let link: Link | undefined
  const everyMs = 20
  while (!stopped) {
    const began = performance.now()
    const batch = Array.from({ length: Math.round((perSecond * everyMs) / 1000) }, () => {
      mark++
      return { key: keyOf(Math.floor(Math.random() * mib * PER_MIB)), mark }
    })
    try {
      link ??= await openAny(hosts, PATIENCE_MS)
      await link.ask(batch.map(({ key, mark: one }) => ['SET', key, value(one)]))
      for (const { key, mark: one } of batch) acknowledged.set(key, one)
    } catch {
      lost++
      link?.socket.destroy()
      link = undefined
    }
    await sleep(Math.max(0, everyMs - (performance.now() - began)))
  }
  link?.socket.destroy()
  return { ...(await check(hosts, acknowledged)), written: mark, reconnects: lost }
}

/** A later write of the same key may have been done without having been acknowledged; an earlier one must not be there. */
async function check(hosts: string[], acknowledged: Map<string, number>) {
  const link = await openAny(hosts, FILL_MS)
  const missing: string[] = []
  const entries = [...acknowledged]
  for (let i = 0; i < entries.length; i += 200) {
    const some = entries.slice(i, i + 200)
    const found = await link.ask(some.map(([key]) => ['GET', key]))
    for (const [j, [key, mark]] of some.entries()) {
      if (!(Number.parseInt(found[j] ?? '', 10) >= mark))
        missing.push(`${key}: ${mark}, found ${found[j]?.slice(0, 10)}`)
    }
  }
  link.socket.destroy()
  return { acknowledged: acknowledged.size, missing }
}

/** The longest time between two answers, each to a poll of its own. */
async function poll(hosts: string[]): Promise<unknown> {
  let answeredAt = 0
  let longestMs = 0
  let answers = 0
  const timer = setInterval(async () => {
    try {
      const link = await openAny(hosts, PATIENCE_MS)
      link.socket.destroy()
      const now = performance.now()
      if (answeredAt > 0) longestMs = Math.max(longestMs, now - answeredAt)
      answeredAt = now
      answers++
    } catch {}
  }, 10)
  await stop
  clearInterval(timer)
  return { longestMs: Math.round(longestMs), answers }
}

const [mode, addresses = '', mib = '0', rate = '500'] = process.argv.slice(2)
if (mode === 'fill') {
  await fill(addresses.split(','), Number(mib))
  process.stdout.write('{}\n')
} else {
  const seen = await (mode === 'poll'
    ? poll(addresses.split(','))
    : write(addresses.split(','), Number(mib), Number(rate)))
  process.stdout.write(`${JSON.stringify(seen)}\n`)
}
process.exit(0)
