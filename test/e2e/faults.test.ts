import assert from 'node:assert/strict'
import { mkdirSync } from 'node:fs'
import { after, afterEach, before, describe, test } from 'node:test'
import {
  type ApiTask,
  createLab,
  type Lab,
  type PullReport,
  type Pushed,
  run,
  type Site,
  sleep,
  startSite,
  until,
} from '../lab/index.ts'
import { assertAllWhole, assertWhole, explained, lacking } from './support.ts'

const MIB = 2 ** 20
const NODES = 5
/** At 60 Mbit/s a pull of it takes 3.5 s: time to break something in the middle. */
const LAYERS = [8 * MIB, 8 * MIB, 8 * MIB]

describe('faults while five nodes pull at once', { skip: lacking() }, () => {
  let lab: Lab
  let site: Site
  let count = 0

  before(async () => {
    lab = await createLab({ hosts: NODES, uplink: { rate: '60mbit', shared: true } })
    site = await startSite(lab)
  })
  after(() => lab?.destroy())
  afterEach(() => site.heal())

  const fresh = async (layers = LAYERS): Promise<{ name: string; pushed: Pushed }> => {
    const name = `lab/fault-${++count}`
    const [pushed] = await lab.push([{ name, tag: '1', layers }])
    return { name, pushed: pushed! }
  }

  /** Waits until the uplink has carried this share of the image since `from`. */
  const carried = (from: number, pushed: Pushed, share: number) =>
    until(
      `the uplink carries ${share} of the image`,
      async () => (await lab.uplink()).down - from >= pushed.bytes * share,
      { everyMs: 50 },
    )

  /** All nodes pull a new image; in the middle of it, `fault` happens. */
  const pullDuring = async (share: number, fault: (pushed: Pushed) => Promise<void>) => {
    const { name, pushed } = await fresh()
    const from = (await lab.uplink()).down
    const pulls = site.pullAll(name, '1', { stallMs: 40_000 })
    await carried(from, pushed, share)
    await fault(pushed)
    return { name, pushed, reports: await pulls, from }
  }

  /** The layer that is under way on most nodes, as these see it. */
  const running = async (pushed: Pushed): Promise<ApiTask[]> => {
    const layers = new Set(pushed.layers.map((layer) => layer.digest))
    const tasks = (await Promise.all(site.nodes.map((_, i) => site.tasks(i)))).flat()
    return tasks.filter((task) => task.state === 'running' && layers.has(task.digest))
  }

  /** The clients of a killed daemon get an error at once; all others get the whole image. */
  const assertOthers = (reports: PullReport[], pushed: Pushed, killed: number) => {
    for (const [i, report] of reports.entries())
      if (i !== killed) assertWhole(report, pushed, `node ${i + 1}`)
    assert.ok(!reports[killed]!.ok)
  }

  const logged = (body: () => Promise<void>) => () => explained(() => site, body)

  test(
    'kill -9 of a coordinator',
    logged(async () => {
      let killed = -1
      const { reports, pushed } = await pullDuring(0.3, async (image) => {
        const [task] = await running(image)
        killed = site.indexOf(task!.coordinator)
        site.nodes[killed]!.kill('SIGKILL')
      })
      assertOthers(reports, pushed, killed)
    }),
  )

  test(
    'kill -9 of a seeder',
    logged(async () => {
      let killed = -1
      const { reports, pushed } = await pullDuring(0.2, async (image) => {
        const layers = new Set(image.layers.map((layer) => layer.digest))
        const byNode = await Promise.all(
          site.nodes.map(async (_, i) =>
            (await site.tasks(i))
              .filter((task) => layers.has(task.digest))
              .reduce((sum, task) => sum + task.sources.upstream, 0),
          ),
        )
        killed = byNode.indexOf(Math.max(...byNode))
        site.nodes[killed]!.kill('SIGKILL')
      })
      assertOthers(reports, pushed, killed)
    }),
  )

  test(
    'a node restarted in mid-pull does not fetch again what it had',
    logged(async () => {
      const node = 2
      let had = 0
      const { reports, pushed, name } = await pullDuring(0.5, async (image) => {
        const layers = new Set(image.layers.map((layer) => layer.digest))
        // On a busy machine it may be late.
        await until('the node has a part of its own', async () => {
          had = (await site.tasks(node))
            .filter((t) => layers.has(t.digest))
            .reduce((sum, t) => sum + t.bytesHere, 0)
          return had > 2 * MIB
        })
        site.nodes[node]!.kill('SIGKILL')
        await site.nodes[node]!.service.ended
        await site.restart(node)
      })
      assertOthers(reports, pushed, node)
      assertWhole(await site.pull(node, name, '1'), pushed)
      const { totals } = await site.status(node)
      const fetched = totals.peersIn + totals.upstream
      // What it had is a lower bound: blocks went on coming until it was killed.
      assert.ok(
        fetched <= pushed.bytes - had + MIB,
        `${fetched} of ${pushed.bytes} fetched, although it had ${had}`,
      )
    }),
  )

  test(
    'the uplink cut once the site holds one full copy',
    logged(async () => {
      const { name, pushed } = await fresh()
      assertWhole(await site.pull(0, name, '1'), pushed)
      // The others resolve the tag while they can, and have their bytes still to come.
      const at = Date.now() + 1500
      const pulls = site.hosts.slice(1).map((host, i) =>
        host.pull({
          base: `${site.nodes[i + 1]!.registry}/docker.io`,
          name,
          reference: '1',
          at,
          stallMs: 40_000,
        }),
      )
      await sleep(at + 150 - Date.now())
      await lab.cutUplink()
      try {
        assertAllWhole(await Promise.all(pulls), pushed)
      } finally {
        await lab.restoreUplink()
      }
    }),
  )

  test(
    'a new pull while the uplink is cut is served with the tag that the site knows',
    logged(async () => {
      const { name, pushed } = await fresh()
      assertWhole(await site.pull(0, name, '1'), pushed)
      await lab.cutUplink()
      try {
        assertWhole(await site.pull(1, name, '1', { stallMs: 40_000 }), pushed)
        const url = `${site.nodes[1]!.registry}/docker.io/${name}/manifests/1`
        const { stdout } = await site.hosts[1]!.exec([
          'curl',
          '-s',
          '-o',
          '/dev/null',
          '-D',
          '-',
          '-m',
          '20',
          url,
        ])
        assert.match(stdout, /^x-shoal-stale:/im)
        const from = performance.now()
        const missing = await site.pull(2, 'lab/never-seen', '1', { stallMs: 30_000 })
        assert.ok(!missing.ok)
        assert.ok(performance.now() - from < 12_000, 'a clear error within 10 s')
        assert.match(missing.error!, /^(404|502|503|504) /)
      } finally {
        await lab.restoreUplink()
      }
    }),
  )

  test(
    "a node's LAN cut for 20 s",
    logged(async () => {
      const cut = 3
      const { reports, pushed, name } = await pullDuring(0.3, async () => {
        await site.hosts[cut]!.cutLan()
        await sleep(20_000)
        await site.hosts[cut]!.restoreLan()
      })
      assertAllWhole(
        reports.filter((_, i) => i !== cut),
        pushed,
      )
      // Cut off from neighbours and upstream alike it can do nothing for blobs that were not begun, and says so at once.
      for (const blob of reports[cut]!.blobs) {
        if (blob.ok) continue
        assert.match(blob.error!, /^503 /)
        assert.ok(blob.totalMs < 10_000, `${blob.totalMs} ms`)
      }
      await site.heal()
      assertWhole(await site.pull(cut, name, '1'), pushed)
    }),
  )

  test(
    'a full disk on one node',
    logged(async () => {
      const disk = `${lab.dir}/small-disk`
      mkdirSync(disk)
      await run(['mount', '-t', 'tmpfs', '-o', 'size=14m', 'tmpfs', disk])
      await site.restart(4, { dataDir: `${disk}/shoal` })
      await site.heal()
      const { reports, pushed } = await pullDuring(0.1, async () => {})
      assertAllWhole(reports, pushed)
      // Nothing that it has kept is broken.
      await site.restart(4, { dataDir: `${disk}/shoal` })
      await site.heal()
      await site.restart(4)
    }),
  )
})
