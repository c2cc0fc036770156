import assert from 'node:assert/strict'
import { parseArgs } from 'node:util'
import {
  type Agent,
  createLab,
  type Lab,
  type Pushed,
  type Site,
  sleep,
  startAgent,
  startSite,
} from '../lab/index.ts'
import { assertWhole } from './support.ts'

const KIB = 1024
const MIB = 1024 * KIB
const API = 'http://127.0.0.1:5081/api/v1'
const SHARED = { size: 3 * MIB, seed: 'base' }

/** An image that somebody was told is safe. */
interface Acknowledged {
  /** Host name before the image's name: `docker.io` was stored, `local` pushed. */
  upstream: string
  name: string
  tag: string
  pushed: Pushed
  how: string
}

export interface Chaos {
  acknowledged: Acknowledged[]
  kills: number
  /** Pushes and stores that ended with an error: a client would try again. */
  failed: number
}

/** Numbers from 0 to 1 that the seed decides (mulberry32). */
export function createRandom(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}

/**
 * For `ms`, images are pushed and stored with two copies, copies are made again, and all cache is evicted, on nodes of the random
 * generator's choice, while one node after the other is killed -9 and started again. At the end all run.
 */
export async function runChaos(options: {
  lab: Lab
  site: Site
  seed: number
  ms: number
  say: (line: string) => void
}): Promise<Chaos> {
  const { lab, site, seed, ms, say } = options
  const random = createRandom(seed)
  const below = (limit: number): number => Math.floor(random() * limit)
  const pause = (most: number): Promise<void> => sleep(random() * most)
  const specs = Array.from({ length: 5 }, (_, i) => ({
    name: 'lab/chaos',
    tag: `s${seed}-${i}`,
    layers: [SHARED, 200 * KIB + below(6 * MIB), 10 * KIB],
  }))
  const upstream = await lab.push(specs)
  const chaos: Chaos = { acknowledged: [], kills: 0, failed: 0 }
  const end = performance.now() + ms
  const going = (): boolean => performance.now() < end
  let down: number | undefined
  const anyUp = (): number => {
    const up = site.hosts.flatMap((_, i) => (i === down ? [] : [i]))
    return up[below(up.length)]!
  }
  const order = (i: number, method: string, path: string, body?: unknown) =>
    site.hosts[i]!.exec(
      ['curl', '-sf', '--max-time', '60', '-X', method, `${API}${path}`].concat(
        body === undefined ? [] : ['-H', 'Content-Type: application/json', '-d', JSON.stringify(body)],
      ),
    ).then(({ stdout }) => JSON.parse(stdout))

  async function kill(): Promise<void> {
    while (going()) {
      await pause(2500)
      const i = below(site.hosts.length)
      down = i
      site.nodes[i]!.kill('SIGKILL')
      chaos.kills++
      await pause(3000)
      await site.restart(i)
      down = undefined
    }
  }

  async function push(agents: Agent[], who: number): Promise<void> {
    for (let n = 0; going(); n++) {
      const i = anyUp()
      const spec = {
        name: `local/chaos${below(2)}`,
        tag: `p${seed}-${who}-${n}`,
        layers: [...(below(2) ? [SHARED] : []), 1 + below(2 * MIB), 1 + below(9 * MIB)],
      }
      try {
        const pushed = await agents[i]!.push(site.nodes[i]!.registry.replace(/\/v2$/, ''), spec)
        const name = spec.name.slice('local/'.length)
        const how = `pushed on h${i + 1} at ${new Date().toISOString()}`
        chaos.acknowledged.push({ upstream: 'local', name, tag: spec.tag, pushed, how })
      } catch (error) {
        chaos.failed++
        say(`  a push on h${i + 1} failed: ${String(error).slice(0, 160)}`)
        await pause(500)
      }
    }
  }

  async function store(): Promise<void> {
    for (const [n, { name, tag }] of specs.entries()) {
      for (let done = false; !done && going(); ) {
        const i = anyUp()
        try {
          const { id } = await order(i, 'POST', '/stored', {
            reference: `docker.io/${name}:${tag}`,
            copies: 2,
          })
          for (let state = 'running'; state === 'running'; await sleep(200)) {
            ;({ state } = await order(i, 'GET', `/storings/${id}`))
            done = state === 'done'
          }
        } catch {}
        if (!done) {
          chaos.failed++
          await pause(500)
          continue
        }
        const how = `stored on h${i + 1} at ${new Date().toISOString()}`
        chaos.acknowledged.push({ upstream: 'docker.io', name, tag, pushed: upstream[n]!, how })
      }
    }
  }

  async function mend(): Promise<void> {
    while (going()) {
      await pause(3000)
      if (below(2)) await order(anyUp(), 'POST', '/repair', { now: true }).catch(() => {})
      else await order(anyUp(), 'POST', '/gc', { all: true }).catch(() => {})
    }
  }

  const agents = lab.hosts.map(({ netns }) => startAgent(netns))
  try {
    await Promise.all([kill(), push(agents, 0), push(agents, 1), store(), mend()])
  } finally {
    for (const agent of agents) agent.stop()
  }
  await site.heal()
  return chaos
}

/** Everything that was acknowledged is whole on every node that is there. A client tries again for some seconds. */
export async function assertAllThere(site: Site, acknowledged: Acknowledged[]): Promise<void> {
  const failures: string[] = []
  await Promise.all(
    site.hosts.map(async ({ netns }, i) => {
      if (!site.nodes[i]!.service.running()) return
      const agent = startAgent(netns)
      for (const { upstream, name, tag, pushed, how } of acknowledged) {
        for (let tries = 3; ; tries--) {
          const base = site.nodes[i]!.registry.replace(/\/?$/, `/${upstream}`)
          const report = await agent.pull({ base, name, reference: tag, stallMs: 20_000 })
          try {
            assertWhole(report, pushed, `${upstream}/${name}:${tag}, ${how}, on h${i + 1}`)
            break
          } catch (error) {
            if (tries > 0) await sleep(1000)
            else {
              failures.push((error as Error).message.split('\n')[0]!)
              break
            }
          }
        }
      }
      agent.stop()
    }),
  )
  assert.deepEqual(failures, [])
}

/** One round; at its end the uplink is cut and a node killed, and after a repair another one, and everything has to be there. */
export async function chaosRound(options: {
  lab: Lab
  site: Site
  seed: number
  ms: number
  say: (line: string) => void
}): Promise<Chaos> {
  const { lab, site, seed, say } = options
  const chaos = await runChaos(options)
  const pushes = chaos.acknowledged.filter(({ upstream }) => upstream === 'local').length
  say(
    `seed ${seed}: ${chaos.kills} kills, ${pushes} pushes and ${chaos.acknowledged.length - pushes} stores acknowledged, ${chaos.failed} failed`,
  )
  await lab.cutUplink()
  const lose = createRandom(seed ^ 0x5eed)
  for (const repair of [false, true]) {
    const left = site.nodes.flatMap(({ service }, i) => (service.running() ? [i] : []))
    if (repair) {
      const { code, stderr } = await site.nodes[left[0]!]!.cli(['repair', '--now'])
      assert.equal(code, 0, stderr)
    }
    const lost = left[Math.floor(lose() * left.length)]!
    say(`  h${lost + 1} is killed for good`)
    site.nodes[lost]!.kill('SIGKILL')
    await site.nodes[lost]!.service.ended
    await assertAllThere(site, chaos.acknowledged)
  }
  return chaos
}

export async function chaosSite(hosts: number): Promise<{ lab: Lab; site: Site }> {
  const lab = await createLab({ hosts, uplink: { rate: '500mbit', shared: true } })
  return { lab, site: await startSite(lab) }
}

// Run as a process, for as many rounds as somebody has patience for: chaos.ts [--seed 1] [--rounds 10] [--seconds 30] [--hosts 5]
if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      seed: { type: 'string', default: `${Date.now() % 1_000_000}` },
      rounds: { type: 'string', default: '10' },
      seconds: { type: 'string', default: '30' },
      hosts: { type: 'string', default: '5' },
    },
  })
  const say = (line: string): void => void process.stdout.write(`${line}\n`)
  const { lab, site } = await chaosSite(Number(values.hosts))
  const acknowledged: Acknowledged[] = []
  let failed = false
  try {
    for (let round = 0; round < Number(values.rounds) && !failed; round++) {
      const seed = Number(values.seed) + round
      await lab.restoreUplink()
      const chaos = await chaosRound({ lab, site, seed, ms: Number(values.seconds) * 1000, say })
      acknowledged.push(...chaos.acknowledged)
      await site.heal()
    }
    await assertAllThere(site, acknowledged)
    say('everything that was acknowledged is there')
  } catch (error) {
    failed = true
    say(`${String(error)}\n${site.logs(60)}`)
  } finally {
    await lab.destroy()
  }
  process.exitCode = failed ? 1 : 0
}
