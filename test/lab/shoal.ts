import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { ShoalError } from '../../base/index.ts'
import { cpuMs, peakRss, resetPeak, rss } from './proc.ts'
import { run, type Service, sleep, start } from './sh.ts'

export const LAUNCHER = fileURLToPath(new URL('../../shoal', import.meta.url))

export interface ShoalOptions {
  /** Added to the flags that the lab gives; a flag given here wins over the lab's of the same name. */
  flags?: string[]
  /** `HOST=URL`. */
  upstreams?: string[]
  /** The file; empty: none is given. */
  clusterKey?: string
  bootstrap?: string[]
  env?: Record<string, string>
  dataDir?: string
  /** What is run with the flags instead of `./shoal serve`: a daemon that misbehaves. */
  command?: string[]
  /** ms until /readyz must answer; default 60 s. 0: do not wait. */
  readyMs?: number
}

export interface ShoalNode {
  service: Service
  dataDir: string
  /** What a client on the host pulls from: `http://127.0.0.1:5080/v2`. */
  registry: string
  multiaddr: string
  /** GET on the management API, from the host itself. */
  api(path: string): Promise<unknown>
  metrics(): Promise<string>
  /** Runs `./shoal` on the host (status, peers, pull, …), against this daemon. */
  cli(args: string[]): Promise<{ code: number; stdout: string; stderr: string }>
  peakRss(): number
  rss(): number
  resetPeak(): void
  cpuMs(): number
  kill(signal: NodeJS.Signals): void
  stop(): Promise<number>
}

const REGISTRY = '127.0.0.1:5080'
const API = '127.0.0.1:5081'

export async function startShoal(
  place: { netns: string; dir: string; name: string; address: string },
  options: ShoalOptions = {},
): Promise<ShoalNode> {
  const dataDir = options.dataDir ?? join(place.dir, 'shoal')
  mkdirSync(place.dir, { recursive: true })
  const multiaddr = `/ip4/${place.address}/tcp/5082`
  const own: [string, string][] = [
    ['--data-dir', dataDir],
    ['--registry', REGISTRY],
    ['--api', API],
    ['--listen', multiaddr],
    ['--name', place.name],
  ]
  if (options.clusterKey) own.push(['--cluster-key', options.clusterKey])
  const given = options.flags ?? []
  const flags = [
    ...own.filter(([name]) => !given.includes(name)).flat(),
    ...(options.upstreams ?? []).flatMap((upstream) => ['--upstream', upstream]),
    ...(options.bootstrap ?? []).flatMap((address) => ['--bootstrap', address]),
    ...given,
  ]
  const log = join(place.dir, 'shoal.log')
  const service = start([...(options.command ?? [LAUNCHER, 'serve']), ...flags], {
    netns: place.netns,
    log,
    // A person's or the machine's own settings must not leak into the lab.
    env: {
      HOME: place.dir,
      DOCKER_CONFIG: place.dir,
      ...(given.includes('--containerd-root') ? {} : { SHOAL_BORROW: 'false' }),
      ...options.env,
    },
  })
  const curl = (path: string, mayFail = false) =>
    run(['curl', '-sf', '--max-time', '10', `http://${API}${path}`], { netns: place.netns, mayFail })
  const readyMs = options.readyMs ?? 60_000
  for (const end = performance.now() + readyMs; readyMs > 0; ) {
    if (!service.running()) {
      const tail = await run(['tail', '-n', '5', log], { mayFail: true })
      throw new ShoalError('INTERNAL', `shoal on ${place.name} ended: ${tail.stdout}`)
    }
    if ((await curl('/readyz', true)).code === 0) break
    if (performance.now() > end) throw new ShoalError('TIMEOUT', `shoal on ${place.name}: not ready`)
    await sleep(200)
  }
  return {
    service,
    dataDir,
    registry: `http://${REGISTRY}/v2`,
    multiaddr,
    api: async (path) => JSON.parse((await curl(path)).stdout),
    metrics: async () => (await curl('/metrics')).stdout,
    cli: (args) =>
      run([LAUNCHER, ...args], {
        netns: place.netns,
        mayFail: true,
        env: { SHOAL_API: API, HOME: place.dir },
      }),
    peakRss: () => peakRss(service.pid),
    rss: () => rss(service.pid),
    resetPeak: () => resetPeak(service.pid),
    cpuMs: () => cpuMs(service.pid),
    kill: (signal) => service.kill(signal),
    stop: () => service.stop(),
  }
}
