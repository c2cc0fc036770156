import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import {
  createLab,
  type Lab,
  type Pushed,
  type ShoalNode,
  type Site,
  sleep,
  startSite,
} from '../lab/index.ts'
import type { ProbeReport } from '../lab/probe.ts'
import { assertWhole, explained, lacking } from './support.ts'

const PROBE = fileURLToPath(new URL('../lab/probe.ts', import.meta.url))

/** Greetings that a libp2p node without admission, or an HTTP server, would answer. */
const GREETINGS = {
  silence: '',
  'multistream-select': Buffer.from('\x13/multistream/1.0.0\n', 'latin1').toString('hex'),
  noise: Buffer.from('\x13/multistream/1.0.0\n\x07/noise\n', 'latin1').toString('hex'),
  HTTP: Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n').toString('hex'),
  noise_: randomBytes(256).toString('hex'),
}

describe('admission by cluster key', { skip: lacking() }, () => {
  let lab: Lab
  let site: Site
  let image: Pushed

  before(async () => {
    lab = await createLab({ hosts: 3 })
    image = (await lab.push([{ name: 'lab/app', tag: '1', layers: [4e6, 4e6] }]))[0]!
    site = await startSite(lab, {}, lab.hosts.slice(0, 2))
    assertWhole(await site.pull(0, 'lab/app', '1'), image)
  })
  after(() => lab?.destroy())

  for (const [name, greeting] of Object.entries(GREETINGS)) {
    test(`a stranger that opens with ${name.replace('_', ' and random bytes')} learns nothing but the end`, () =>
      explained(
        () => site,
        async () => {
          const [member, , stranger] = lab.hosts
          const command = [process.execPath, PROBE, member!.address, '5082', greeting]
          const report = JSON.parse((await stranger!.exec(command)).stdout) as ProbeReport
          assert.ok(report.connected)
          assert.ok(report.closedMs !== undefined, 'the connection was left open')
          // A challenge of random bytes may come first; nothing that tells what is spoken here.
          const text = Buffer.from(report.received, 'hex').toString('latin1')
          assert.ok(report.received.length <= 128, `${report.received.length / 2} bytes`)
          assert.doesNotMatch(text, /multistream|noise|tls|yamux|http|shoal|12D3/i)
        },
      ))
  }

  const outsider = async (clusterKey: string | undefined, dataDir: string) => {
    const host = lab.hosts[2]!
    // Its upstream leads nowhere: what it gets, it got from the members.
    return await host.shoal({
      upstreams: ['docker.io=http://127.0.0.1:9'],
      bootstrap: [`/ip4/${lab.hosts[0]!.address}/tcp/5082`],
      dataDir,
      clusterKey: clusterKey ?? '',
    })
  }

  const assertOutside = async (node: ShoalNode) => {
    try {
      await sleep(4000)
      const own = (await node.api('/api/v1/status')) as { members: { alive: number } }
      assert.equal(own.members.alive, 1, 'it knows nobody')
      assert.equal((await site.status(0)).members.alive, 2, 'nobody knows it')
      const peers = JSON.stringify(await node.api('/api/v1/peers'))
      assert.ok(!peers.includes((await site.status(1)).id), 'it has not learnt of other members')
      const report = await lab.hosts[2]!.pull({
        base: `${node.registry}/docker.io`,
        name: 'lab/app',
        reference: '1',
      })
      assert.ok(!report.ok)
      assert.equal(report.bytes, 0)
      const blob = `${node.registry}/docker.io/lab/app/blobs/${image.layers[0]!.digest}`
      const { stdout } = await lab.hosts[2]!.exec([
        'curl',
        '-s',
        '-o',
        '/dev/null',
        '-w',
        '%{http_code}',
        blob,
      ])
      assert.match(stdout, /^(404|50[234])$/)
    } finally {
      await node.stop()
    }
  }

  test('a node with a wrong key stays outside', () =>
    explained(
      () => site,
      async () => {
        const wrong = join(lab.dir, 'wrong.key')
        writeFileSync(wrong, `${randomBytes(32).toString('hex')}\n`, { mode: 0o600 })
        await assertOutside(await outsider(wrong, join(lab.dir, 'outsider-1')))
      },
    ))

  test('a node without a key stays outside', () =>
    explained(
      () => site,
      async () => {
        const data = join(lab.dir, 'outsider-2')
        await assertOutside(await outsider(undefined, data))
        assert.ok(existsSync(data))
      },
    ))

  test('the members go on as if nothing had been', () =>
    explained(
      () => site,
      async () => {
        assertWhole(await site.pull(1, 'lab/app', '1'), image)
      },
    ))
})
