import { writeFileSync } from 'node:fs'
import { serveCommand } from '../../cli/commands/serve.ts'
import type { Rooms } from '../../cli/rooms.ts'
import { standInPlatform } from './platform-twin.ts'
import { standInCollect, standInManager, standInPins, standInStore } from './standins.ts'

/**
 * `shoal serve` over stand-ins for the rooms, as a process of its own, so that signals can be sent to it. Arguments: data
 * directory, a file for what was closed, and how it misbehaves (`hang`: the manager never closes; `slow-start`).
 */
const [dataDir = '', closedFile = '', mode = ''] = process.argv.slice(2)
const closed: string[] = []
const note = (part: string): void => {
  closed.push(part)
  writeFileSync(closedFile, closed.join(' '))
}

const rooms: Rooms = {
  openStore: async () => {
    if (mode === 'slow-start') await new Promise(() => setInterval(() => {}, 1000))
    return { ...standInStore(), close: async () => note('store') }
  },
  createUpstream: async () => ({ close: async () => note('upstream') }) as never,
  createManager: async () => ({
    ...standInManager().manager,
    close: async () => {
      if (mode === 'hang') await new Promise(() => {})
      note('manager')
    },
  }),
  createProxy: async () => ({
    listener: (req, res) => {
      if (req.url !== '/slow') return void res.end('quick')
      res.write('begun ')
      setTimeout(() => res.end('and ended'), 700)
    },
    pull: async (_request, { signal }) =>
      await new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason))),
    images: async () => [],
    pins: standInPins(),
    repair: () => {},
    local: async () => [],
    collect: standInCollect,
    storedName: (reference) => reference,
    host: () => {},
    close: async () => note('proxy'),
  }),
  followContent: async () => ({ close: async () => note('content') }),
  createPlatform: async () => standInPlatform({ close: async () => note('platform') }),
}

const abort = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    if (abort.signal.aborted) process.exit(1)
    abort.abort()
  })
}
await serveCommand(
  { io: { out: process.stdout, err: process.stderr }, env: {}, signal: abort.signal },
  {
    json: true,
    settings: { 'data-dir': dataDir, registry: '127.0.0.1:0', api: '127.0.0.1:0', name: 'edge-1' },
  },
  async () => rooms,
)
