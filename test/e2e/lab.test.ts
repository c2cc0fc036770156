import assert from 'node:assert/strict'
import { existsSync, readdirSync } from 'node:fs'
import { after, before, describe, test } from 'node:test'
import { createLab, type Lab, type Pushed, parseRate, until } from '../lab/index.ts'
import { assertWhole, lacking } from './support.ts'

describe('the lab', { skip: lacking() }, () => {
  let lab: Lab
  let image: Pushed

  before(async () => {
    lab = await createLab({ hosts: 2, uplink: { rate: '100mbit', shared: true } })
    image = (
      await lab.push([{ name: 'lab/app', tag: '1', layers: [8e6, 8e6], platforms: ['linux/arm64'] }])
    )[0]!
  })
  after(() => lab?.destroy())

  const direct = (host: number) => {
    const base = `${lab.cloud.registry}/v2`
    return lab.hosts[host]!.pull({ base, name: 'lab/app', reference: '1', stallMs: 5000 })
  }

  test('pulls directly over the shaped uplink, and counts what crossed it', async () => {
    const before = await lab.uplink()
    const report = await direct(0)
    const { down } = await lab.uplink()
    assertWhole(report, image)
    const share = (down - before.down) / image.bytes
    assert.ok(share > 0.99 && share < 1.02, `the uplink carried ${share} of the image`)
    // An upper bound only: a loaded machine may be slower than its links, never faster.
    const rate = (report.bytes * 8) / (report.totalMs / 1000)
    assert.ok(rate < parseRate('100mbit'), `${rate} bit/s`)
  })

  test('cuts and restores the uplink and a host of the LAN', async () => {
    const [first, second] = lab.hosts
    const ping = async () =>
      (await first!.exec(['curl', '-s', '-m', '2', `http://${second!.address}:9`], { mayFail: true })).code
    assert.equal(await ping(), 7, 'refused: the host is there')
    await second!.cutLan()
    assert.notEqual(await ping(), 7)
    await second!.restoreLan()
    await lab.cutUplink()
    assert.equal(await ping(), 7, 'the LAN is there without the uplink')
    const probe = ['curl', '-s', '-m', '2', `${lab.cloud.registry}/v2/`]
    assert.notEqual((await first!.exec(probe, { mayFail: true })).code, 0)
    await lab.restoreUplink()
    // The neighbour table may hold the router for unreachable for a moment.
    await until('the uplink is back', async () => (await first!.exec(probe, { mayFail: true })).code === 0)
  })

  test('leaves nothing behind', async () => {
    const { name, dir } = lab
    await lab.destroy()
    assert.ok(!existsSync(dir))
    assert.deepEqual(
      readdirSync('/run/netns').filter((ns) => ns.startsWith(name)),
      [],
    )
  })
})
