import assert from 'node:assert/strict'
import { existsSync, writeFileSync } from 'node:fs'
import { after, before, describe, test } from 'node:test'
import type { Migration } from '../../integration/index.ts'
import { until } from '../lab/index.ts'
import {
  COUNTER,
  createMigrationLab,
  type MigrationLab,
  type MigrationNode,
  workAddress,
} from './migration-lab.ts'
import { fillRedis, REDIS, startPoller, startWriter } from './redis.ts'
import { lacking } from './support.ts'

const LONG = { timeoutMs: 60_000, everyMs: 50 }

const missing = lacking('containerd', 'ctr', 'runc', 'criu', 'perl', 'redis-server', 'redis-cli', 'unshare')

describe('moving a container', { skip: missing }, () => {
  let lab: MigrationLab
  let a: MigrationNode
  let b: MigrationNode
  before(async () => {
    lab = await createMigrationLab()
    ;[a, b] = lab.nodes as [MigrationNode, MigrationNode]
  })
  after(() => lab?.destroy())

  async function move(
    from: MigrationNode,
    to: MigrationNode,
    name: string,
    ...more: string[]
  ): Promise<Migration> {
    const { code, stdout, stderr } = await from.shoal.cli([
      'migrate',
      name,
      '--to',
      to.name,
      '--json',
      ...more,
    ])
    assert.equal(code, 0, `${stderr}\n${lab.logs()}`)
    return JSON.parse(stdout) as Migration
  }

  async function assertNeverTwo(): Promise<void> {
    const { samples, doubles } = await lab.observer.seen()
    assert.deepEqual(doubles, [])
    assert.ok(samples > 10)
  }

  /** The checksum of its memory, which the counter computes when it is asked. */
  async function sum(node: MigrationNode, name: string): Promise<string> {
    const pid = await lab.pidOn(node, name)
    writeFileSync(`/proc/${pid}/root/ask`, '')
    return until(
      'the counter sums up its memory',
      async () =>
        existsSync(`/proc/${pid}/root/ask`) ? '' : await lab.read(node, name, '/sum').catch(() => ''),
      LONG,
    )
  }

  test('there and back, with the registry stopped and the uplink cut: it counts on, with its memory and its files', async () => {
    await lab.start(a, 'counter', COUNTER(64))
    const count = async (node: MigrationNode): Promise<number> =>
      Number(await lab.read(node, 'counter', '/count').catch(() => '0'))
    await until('it counts', async () => (await count(a)) > 20, LONG)
    const hash = await sum(a, 'counter')
    await lab.lab.cutUplink()
    await lab.lab.stopRegistry()
    for (const [from, to] of [
      [a, b],
      [b, a],
    ] as const) {
      const before = await count(from)
      const { rounds } = await move(from, to, 'counter')
      assert.equal(await lab.pidOn(from, 'counter'), undefined)
      const after = await until('it counts on', () => count(to), LONG)
      assert.ok(after >= before, `${after} after ${before}`)
      await until('it counts further', async () => (await count(to)) > after, LONG)
      assert.equal(await sum(to, 'counter'), hash)
      assert.equal(await lab.read(to, 'counter', '/started'), 'by hand')
      assert.ok(rounds.at(-1)?.frozen)
      // The memory was copied before the freeze.
      assert.ok((rounds.at(-1)?.changed ?? 0) < 4e6, JSON.stringify(rounds))
    }
    const states = (await Promise.all([a.migrations(), b.migrations()])).flat().map(({ state }) => state)
    await until('all is known to be done', () => states.every((state) => state === 'done'))
    await assertNeverTwo()
    await a.containerd.ctr(['tasks', 'kill', '-s', 'KILL', 'counter'])
    await lab.lab.restoreUplink()
  })

  test('Redis under load: what was acknowledged is there', async () => {
    const mib = 32
    await lab.start(a, 'redis', REDIS, { netns: lab.netns })
    const client = a.host.netns
    await until(
      'Redis takes data',
      () =>
        fillRedis(client, mib).then(
          () => true,
          () => false,
        ),
      LONG,
    )
    const writer = startWriter(client, mib, 500)
    const poller = startPoller(client)
    const { rounds, downtimeMs } = await move(a, b, 'redis', '--health', 'tcp:127.0.0.1:6379')
    assert.ok(downtimeMs !== undefined && downtimeMs > 0)
    assert.ok(rounds.length >= 2)
    const polled = await poller.stop()
    const written = await writer.stop()
    assert.deepEqual(written.missing, [])
    assert.ok(written.acknowledged > 0 && polled.answers > 0)
    await assertNeverTwo()
    // And away again, with all else that runs there.
    const drained = await b.shoal.cli(['drain', '--json'])
    assert.equal(drained.code, 0, drained.stderr)
    const { moved } = JSON.parse(drained.stdout) as { moved: Migration[] }
    assert.deepEqual(
      moved.map(({ container, state }) => [container.name, state]),
      [['redis', 'done']],
    )
    assert.equal((await a.host.exec(['redis-cli', '-h', workAddress(0), 'ping'])).stdout, 'PONG\n')
    await assertNeverTwo()
    await a.containerd.ctr(['tasks', 'kill', '-s', 'KILL', 'redis'])
  })
})
