import { parseArgs } from 'node:util'
import { formatBytes } from '../../base/index.ts'
import { createLab, enter, type Lab, parseRate, sweepStale, type Uplink } from './index.ts'

const USAGE = `npm run lab -- up [--hosts 4] [--uplink 100mbit|none] [--each] [--lan 1gbit|none]
                  [--containerd] [--docker] [--no-shoal]    a site to play with, until Ctrl-C
npm run lab -- check [--uplink 100mbit] [--each] [--lan 1gbit]   what TCP gets of the nominal rates
npm run lab -- clean                                             removes what crashed labs have left`

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    hosts: { type: 'string', default: '4' },
    uplink: { type: 'string', default: '100mbit' },
    each: { type: 'boolean', default: false },
    lan: { type: 'string', default: '1gbit' },
    containerd: { type: 'boolean', default: false },
    docker: { type: 'boolean', default: false },
    'no-shoal': { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
})

function say(line = ''): void {
  process.stdout.write(`${line}\n`)
}

function lab(hosts: number): Promise<Lab> {
  const { uplink: rate } = values
  const uplink: Uplink =
    rate === 'none' ? 'none' : values.each ? { rate, each: true } : { rate, shared: true }
  return createLab({ hosts, uplink, lan: values.lan === 'none' ? null : values.lan })
}

async function up(): Promise<void> {
  const site = await lab(Number(values.hosts))
  const ended = new Promise<void>((resolve) => {
    process.once('SIGINT', resolve).once('SIGTERM', resolve)
  })
  try {
    await furnish(site)
    say('Ctrl-C ends it and removes everything.')
    await ended
  } finally {
    await site.destroy()
  }
}

async function furnish(site: Lab): Promise<void> {
  const image = {
    name: 'lab/hello',
    tag: '1',
    layers: [16e6, 16e6],
    runnable: true,
    platforms: ['linux/arm64'],
  }
  const [pushed] = await site.push([image])
  say(
    `${site.name}: ${site.hosts.length} hosts, uplink ${values.uplink}${values.each ? ' each' : ''}, LAN ${values.lan}`,
  )
  say(`upstream: ${site.cloud.registry} with lab/hello:1 (${formatBytes(pushed!.bytes)}); its namespace:`)
  say(`  ${enter(site.cloud.netns)}`)
  for (const host of site.hosts) {
    say(`${host.name} (${host.address}): ${enter(host.netns)}`)
    const containerd = values.containerd ? await host.containerd() : undefined
    if (!values['no-shoal']) {
      const node = await host.shoal(containerd ? { flags: ['--containerd-root', containerd.root] } : {})
      say(`  shoal   ${node.registry}, API http://127.0.0.1:5081, log ${node.service.log}`)
    }
    if (containerd) {
      containerd.mirror('docker.io', ['http://127.0.0.1:5080'])
      say(
        `  ctr     ctr -a ${containerd.address} i pull --hosts-dir ${containerd.hostsDir} docker.io/lab/hello:1`,
      )
    }
    if (values.docker) {
      const docker = await host.dockerd({ mirrors: ['http://127.0.0.1:5080'] })
      say(`  docker  docker -H unix://${docker.socket} run --rm --network none lab/hello:1`)
    }
  }
}

/** Pulls directly, one host and then all of them, and compares with the rates that were asked for. */
async function check(): Promise<void> {
  const site = await lab(values.each ? 2 : 3)
  try {
    const nominal = values.uplink === 'none' ? Number.POSITIVE_INFINITY : parseRate(values.uplink) / 8
    const size = Math.min(128e6, Math.max(16e6, nominal * 4))
    const [image] = await site.push([{ name: 'lab/check', tag: '1', layers: [size / 2, size / 2] }])
    const pull = (i: number) =>
      site.hosts[i]!.pull({ base: `${site.cloud.registry}/v2`, name: 'lab/check', reference: '1' })
    const before = await site.uplink()
    const alone = await pull(0)
    const after = await site.uplink()
    const rate = (alone.bytes / alone.totalMs) * 1000
    say(
      `alone: ${alone.ok} ${formatBytes(alone.bytes)} in ${(alone.totalMs / 1000).toFixed(2)} s: ${mbit(rate)} of payload`,
    )
    say(`  ${((rate / nominal) * 100).toFixed(1)} % of the nominal rate (headers take 5.0 %)`)
    say(
      `  the uplink counted ${(((after.down - before.down) / image!.bytes) * 100).toFixed(2)} % of the image`,
    )
    const all = await Promise.all(site.hosts.map((_, i) => pull(i)))
    for (const [i, r] of all.entries())
      say(`at once, h${i + 1}: ${r.ok} ${mbit((r.bytes / r.totalMs) * 1000)}`)
    const ttfb = Math.max(...alone.blobs.map((b) => b.firstByteMs))
    say(`slowest first byte alone: ${ttfb.toFixed(1)} ms`)
  } finally {
    await site.destroy()
  }
}

function mbit(bytesPerSecond: number): string {
  return `${((bytesPerSecond * 8) / 1e6).toFixed(1)} Mbit/s`
}

const command = positionals[0]
if (values.help || command === undefined) say(USAGE)
else if (command === 'up') await up()
else if (command === 'check') await check()
else if (command === 'clean') {
  const names = await sweepStale()
  say(names.length === 0 ? 'nothing was left' : `removed ${names.join(', ')}`)
} else {
  process.stderr.write(`${USAGE}\n`)
  process.exitCode = 2
}
