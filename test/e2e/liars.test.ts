import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { createLab, type Lab, type Pushed, type Site, startSite } from '../lab/index.ts'
import { assertAllWhole, assertWhole, explained, lacking } from './support.ts'

const MIB = 2 ** 20
const LIAR = 3
const PROGRAM = fileURLToPath(new URL('../fakes/liar.ts', import.meta.url))

describe('a member that lies', { skip: lacking() }, () => {
  let lab: Lab
  let site: Site
  let count = 0

  before(async () => {
    lab = await createLab({ hosts: 4, uplink: { rate: '100mbit', shared: true } })
    site = await startSite(lab)
  })
  after(() => lab?.destroy())

  const become = async (lie: string, more: string[] = []) => {
    const command = [process.execPath, PROGRAM, lie]
    await site.restart(LIAR, { command, dataDir: `${lab.dir}/liar-${++count}`, flags: more })
    await site.heal()
  }
  const image = async (): Promise<{ name: string; pushed: Pushed }> => {
    const name = `lab/lie-${count}`
    return { name, pushed: (await lab.push([{ name, tag: '1', layers: [8 * MIB, 8 * MIB] }]))[0]! }
  }

  /** The liar pulls honestly, so that it has what it will lie about; then it begins to lie and the others pull. */
  const lied = (lie: string, more: string[] = []) =>
    explained(
      () => site,
      async () => {
        await become(lie, more)
        const { name, pushed } = await image()
        assertWhole(await site.pull(LIAR, name, '1'), pushed)
        site.nodes[LIAR]!.kill('SIGUSR2')
        const at = Date.now() + 1500
        const others = site.hosts.slice(0, LIAR)
        const pulls = others.map((_, i) => site.pull(i, name, '1', { at, stallMs: 40_000 }))
        assertAllWhole(await Promise.all(pulls), pushed)
      },
    )

  test('sends corrupt blocks', () => lied('corrupt'))
  test('has not what it claims', () => lied('missing'))
  test('takes requests and never answers', () => lied('stall'))
  test('stalls in mid-block', () => lied('none', ['--upload-rate', '64kbit/s']))

  test('seeds other bytes than upstream gave it', () =>
    explained(
      () => site,
      async () => {
        await become('forge')
        const { name, pushed } = await image()
        const reports = await site.pullAll(name, '1', { stallMs: 40_000 })
        // Bytes that were given to a client cannot be taken back: its connection is cut, and it asks again, as runtimes do.
        for (const [i, first] of reports.slice(0, LIAR).entries()) {
          if (!first.ok) assert.match(first.error!, /aborted|ECONNRESET|hang up/)
          const report = first.ok ? first : await site.pull(i, name, '1', { stallMs: 40_000 })
          assertWhole(report, pushed, `node ${i + 1}`)
        }
        // It may have deceived itself, but not by a complete blob that is wrong.
        for (const blob of reports[LIAR]!.blobs)
          assert.doesNotMatch(blob.error ?? '', /^wrong bytes \((\d+) of \1\)/)
      },
    ))
})
