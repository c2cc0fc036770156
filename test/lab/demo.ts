import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { formatBytes } from '../../base/index.ts'
import { startFakeRegistry } from '../fakes/registry.ts'
import { pull } from './client.ts'
import { type ApiStatus, LAUNCHER, sleep, until } from './index.ts'
import { formatTable } from './table.ts'

const NODES = 3
/** Of the "uplink": thin enough to matter, wide enough not to bore. */
const BYTES_PER_SECOND = 6 * 2 ** 20
const LAYERS = [9, 6, 3].map((mib) => mib * 2 ** 20)

const say = (line = ''): void => void process.stdout.write(`${line}\n`)

/** TCP ports that are free now, found together so that none is given twice. */
async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer())
  const ports = await Promise.all(
    servers.map(
      (server) =>
        new Promise<number>((resolve, reject) => {
          server.on('error', reject)
          server.listen(0, '127.0.0.1', () => resolve((server.address() as { port: number }).port))
        }),
    ),
  )
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))))
  return ports
}

interface Node {
  name: string
  registry: string
  api: string
  stop(): Promise<void>
}

async function startNodes(dir: string, upstream: string): Promise<Node[]> {
  const key = join(dir, 'cluster.key')
  writeFileSync(key, `${randomBytes(32).toString('hex')}\n`, { mode: 0o600 })
  const ports = await freePorts(NODES * 3)
  const swarm = Array.from({ length: NODES }, (_, i) => `/ip4/127.0.0.1/tcp/${ports[i]}`)
  const launch = async (i: number): Promise<Node> => {
    const registry = `127.0.0.1:${ports[NODES + i * 2]}`
    const api = `127.0.0.1:${ports[NODES + i * 2 + 1]}`
    const name = `node-${i + 1}`
    const log = join(dir, `${name}.log`)
    const out = openSync(log, 'w')
    const flags = [
      ...['--data-dir', join(dir, name), '--name', name, '--site', 'demo', '--cluster-key', key],
      ...[
        '--registry',
        registry,
        '--api',
        api,
        '--listen',
        swarm[i]!,
        '--upstream',
        `docker.io=${upstream}`,
        '--no-borrow',
      ],
      ...(i === 0 ? [] : ['--bootstrap', swarm[0]!]),
    ]
    const child = spawn(LAUNCHER, ['serve', ...flags], { stdio: ['ignore', out, out] })
    closeSync(out)
    let ended = false
    const end = new Promise<void>((resolve) => {
      child.on('error', () => resolve())
      child.on('exit', () => resolve())
    })
    void end.then(() => {
      ended = true
    })
    stops.push(() => void child.kill('SIGKILL'))
    await until(`${name} is ready`, async () => {
      if (ended) throw new Error(`${name} ended: ${readFileSync(log, 'utf8').slice(-600)}`)
      return await fetch(`http://${api}/readyz`).then(
        (answer) => answer.ok,
        () => false,
      )
    })
    return {
      name,
      registry,
      api,
      async stop() {
        child.kill('SIGTERM')
        await Promise.race([end, sleep(5000)])
        child.kill('SIGKILL')
      },
    }
  }
  return Promise.all(swarm.map((_, i) => launch(i)))
}

async function status(node: Node): Promise<ApiStatus> {
  return (await (await fetch(`http://${node.api}/api/v1/status`)).json()) as ApiStatus
}

const stops: (() => void)[] = []

async function demo(dir: string): Promise<void> {
  const upstream = await startFakeRegistry({ bytesPerSecond: BYTES_PER_SECOND })
  stops.push(() => void upstream.close())
  const image = upstream.addImage({ repository: 'demo/app', tag: '1', layers: LAYERS })
  const rate = `${formatBytes(BYTES_PER_SECOND)}/s`
  say(
    `An upstream registry behind ${rate}, with an image of ${formatBytes(image.size)}. Starting ${NODES} nodes …`,
  )
  const nodes = await startNodes(dir, upstream.url)
  await until('the nodes know each other', async () =>
    (await Promise.all(nodes.map(status))).every((s) => s.members.alive === NODES),
  )

  const pullAll = async (bases: string[]) => {
    upstream.resetCounters()
    const reports = await Promise.all(
      bases.map((base) => pull({ base, name: 'demo/app', reference: '1', concurrency: 3 })),
    )
    const failed = reports.find((report) => !report.ok)
    if (failed) throw new Error(`a pull failed: ${failed.error}`)
    return { reports, last: Math.max(...reports.map((r) => r.totalMs)) / 1000, sent: upstream.totalSent() }
  }

  say('Each node pulls the image through its own Shoal daemon, all at the same moment …\n')
  const through = await pullAll(nodes.map((node) => `http://${node.registry}/v2/docker.io`))
  const totals = await Promise.all(nodes.map(async (node) => (await status(node)).totals))
  const again = await pullAll(nodes.map((node) => `http://${node.registry}/v2/docker.io`))
  say(
    formatTable([
      ['node', 'seconds', 'from upstream', 'from neighbours', 'to neighbours', 'pulled again'],
      ...nodes.map((node, i) => [
        node.name,
        (through.reports[i]!.totalMs / 1000).toFixed(1),
        formatBytes(totals[i]!.upstream),
        formatBytes(totals[i]!.peersIn),
        formatBytes(totals[i]!.peersOut),
        `${(again.reports[i]!.totalMs / 1000).toFixed(2)} s from its own store`,
      ]),
    ]),
  )
  say('\nThe same three pulls without Shoal, each directly from upstream …\n')
  const direct = await pullAll(nodes.map(() => `${upstream.url}/v2`))
  say(
    formatTable([
      ['', 'seconds until all three are done', 'bytes over the uplink'],
      ['through Shoal', through.last.toFixed(1), formatBytes(through.sent)],
      ['directly', direct.last.toFixed(1), formatBytes(direct.sent)],
    ]),
  )
  const times = (direct.last / through.last).toFixed(1)
  const bytes = (direct.sent / through.sent).toFixed(1)
  say(`\nShoal was ${times} times as fast and moved ${bytes} times fewer bytes over the uplink.`)
  await Promise.all(nodes.map((node) => node.stop()))
}

const dir = mkdtempSync(join(tmpdir(), 'shoal-demo-'))
const cleanUp = (): void => {
  for (const stop of stops.splice(0)) stop()
  rmSync(dir, { recursive: true, force: true, maxRetries: 10 })
}
for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const) {
  process.once(signal, () => {
    cleanUp()
    process.exit(code)
  })
}
try {
  await demo(dir)
} catch (error) {
  process.stderr.write(`demo: ${error instanceof Error ? error.message : String(error)}\n`)
  process.exitCode = 1
} finally {
  cleanUp()
}
