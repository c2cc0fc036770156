import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { createLab, type Lab, type Pushed, type Site, startSite } from '../lab/index.ts'
import { assertAllWhole, assertWhole, explained, lacking } from './support.ts'

const MIB = 2 ** 20

describe('eight nodes behind one uplink', { skip: lacking() }, () => {
  let lab: Lab
  let site: Site
  let image: Pushed

  before(async () => {
    lab = await createLab({ hosts: 8, uplink: { rate: '100mbit', shared: true } })
    const layers = Array.from({ length: 4 }, () => 16 * MIB)
    image = (await lab.push([{ name: 'lab/app', tag: '1', layers }]))[0]!
    site = await startSite(lab)
  })
  after(() => lab?.destroy())

  test('pull an image at the same moment: right digests, and it crosses the uplink once', () =>
    explained(
      () => site,
      async () => {
        const before = await lab.uplink()
        const reports = await site.pullAll('lab/app', '1')
        const after = await lab.uplink()
        assertAllWhole(reports, image)
        const share = (after.down - before.down) / image.bytes
        assert.ok(share <= 1.03, `the uplink carried ${share.toFixed(3)} of the image`)
      },
    ))

  test('a node that has it serves it without the uplink', () =>
    explained(
      () => site,
      async () => {
        await lab.cutUplink()
        const report = await site.pull(3, 'lab/app', '1', { stallMs: 20_000 })
        await lab.restoreUplink()
        assertWhole(report, image)
        assert.ok((await site.status(3)).totals.local >= 0)
      },
    ))

  test('a member that comes later takes everything from its neighbours', () =>
    explained(
      () => site,
      async () => {
        const data = `${lab.hosts[7]!.dir}/fresh`
        await site.restart(7, { dataDir: data })
        await site.heal()
        const before = await lab.uplink()
        const report = await site.pull(7, 'lab/app', '1')
        const after = await lab.uplink()
        assertWhole(report, image)
        const share = (after.down - before.down) / image.bytes
        assert.ok(share <= 0.01, `the uplink carried ${share.toFixed(4)} of the image`)
      },
    ))
})
