import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import type { Repaired, StoredState } from '../../manager/index.ts'
import { ORDERS } from '../fakes/storer.ts'
import { createLab, type Lab, type Pushed, type Site, sleep, startSite } from '../lab/index.ts'
import { assertWhole, explained, lacking } from './support.ts'

const MIB = 2 ** 20
const PROGRAM = fileURLToPath(new URL('../fakes/storer.ts', import.meta.url))
const NAMES = ['lab/one', 'lab/two']

describe('images stored in two copies', { skip: lacking() }, () => {
  let lab: Lab
  let site: Site
  let images: Pushed[]
  const gone = new Set<number>()

  before(async () => {
    lab = await createLab({ hosts: 5, uplink: { rate: '200mbit', shared: true } })
    images = await lab.push(
      NAMES.map((name) => ({ name, tag: '1', layers: [16 * MIB, 9 * MIB], seed: name })),
    )
    site = await startSite(lab, { command: [process.execPath, PROGRAM] })
  })
  after(() => lab?.destroy())

  async function order<T>(i: number, path: string, body: unknown = {}): Promise<T> {
    const command = [
      'curl',
      '-sS',
      '--fail-with-body',
      '--max-time',
      '200',
      '-d',
      JSON.stringify(body),
      ORDERS + path,
    ]
    return JSON.parse((await site.hosts[i]!.exec(command)).stdout)
  }
  const alive = (): number[] => [...site.hosts.keys()].filter((i) => !gone.has(i))
  const kill = (i: number): void => {
    site.nodes[i]!.kill('SIGKILL')
    gone.add(i)
  }
  const bytesOf = async (i: number): Promise<number> => (await site.status(i)).store.bytes

  /** Every image on every node that is left; a client tries again for some seconds. */
  async function everybodyPulls(): Promise<void> {
    for (const [at, name] of NAMES.entries()) {
      await Promise.all(
        alive().map(async (i) => {
          for (let tries = 20; ; tries--) {
            const report = await site.pull(i, name, '1', { stallMs: 20_000 })
            if (report.ok || tries === 0) return assertWhole(report, images[at]!, `node ${i + 1}`)
            await sleep(1000)
          }
        }),
      )
    }
  }

  test('are on all nodes in shares, and cross the uplink once', () =>
    explained(
      () => site,
      async () => {
        const before = await lab.uplink()
        for (const [i, repository] of NAMES.entries()) {
          await order(i, '/store', { repository, tag: '1', copies: 2 })
        }
        const total = images.reduce((sum, image) => sum + image.bytes, 0)
        const crossed = ((await lab.uplink()).down - before.down) / total
        assert.ok(crossed <= 1.06, `the uplink carried ${crossed.toFixed(3)} of the images`)
        const each = await Promise.all(site.hosts.map((_, i) => bytesOf(i)))
        const sum = each.reduce((a, b) => a + b)
        assert.ok(sum >= 2 * total * 0.99 && sum <= 2 * total * 1.1, `${each} bytes for ${total}`)
        const states = await order<StoredState[]>(0, '/list')
        assert.deepEqual(
          states.map(({ copiesNow, startable }) => ({ copiesNow, startable })),
          NAMES.map(() => ({ copiesNow: 2, startable: true })),
        )
      },
    ))

  test('are pulled by every node with the uplink cut, a moment after a node was killed', () =>
    explained(
      () => site,
      async () => {
        await lab.cutUplink()
        kill(3)
        await everybodyPulls()
      },
    ))

  /** All copies are there, and on no disk is more than its share. */
  async function repaired(): Promise<number> {
    let copied = 0
    for (let tries = 40; ; tries--) {
      copied += (await order<Repaired>(0, '/repair')).copied
      const states = await order<StoredState[]>(0, '/list')
      if (states.every(({ copiesNow }) => copiesNow >= 2)) break
      assert.ok(tries > 0, JSON.stringify(states))
      await sleep(1000)
    }
    for (const i of alive()) await order(i, '/gc')
    assert.ok((await order<StoredState[]>(0, '/list')).every(({ copiesNow }) => copiesNow === 2))
    return copied
  }

  test('have their copies made again, so that another node may die', () =>
    explained(
      () => site,
      async () => {
        // Without what the pulls left behind.
        for (const i of alive()) await order(i, '/gc')
        assert.ok((await repaired()) > 0)
        kill(1)
        await everybodyPulls()
      },
    ))

  test('take back the nodes that come again', () =>
    explained(
      () => site,
      async () => {
        await repaired()
        gone.clear()
        await site.heal()
        await sleep(1500)
        const moved = await repaired()
        assert.ok(moved <= 5, `${moved} blocks were copied`)
        kill(4)
        await everybodyPulls()
        gone.clear()
        await site.heal()
      },
    ))

  test('lose nothing when the node that stores dies on the way', () =>
    explained(
      () => site,
      async () => {
        await lab.restoreUplink()
        const [third] = await lab.push([{ name: 'lab/three', tag: '1', layers: [24 * MIB, 8 * MIB] }])
        images.push(third!)
        NAMES.push('lab/three')
        const stored = { repository: 'lab/three', tag: '1', copies: 2 }
        const storing = order(2, '/store', stored).catch(() => {})
        await sleep(900)
        kill(2)
        await storing
        await order(0, '/store', stored)
        await lab.cutUplink()
        await repaired()
        await everybodyPulls()
      },
    ))
})
