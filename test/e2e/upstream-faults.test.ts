import assert from 'node:assert/strict'
import { after, afterEach, before, describe, test } from 'node:test'
import {
  createLab,
  type FakeUpstream,
  type Lab,
  type PullReport,
  type Site,
  startSite,
  type WireFault,
} from '../lab/index.ts'
import { explained, lacking } from './support.ts'

const MIB = 2 ** 20
const UPSTREAM = 'fake.lab'

describe('an upstream that misbehaves while four nodes pull at once', { skip: lacking() }, () => {
  let lab: Lab
  let site: Site
  let upstream: FakeUpstream
  let count = 0

  before(async () => {
    lab = await createLab({ hosts: 4, uplink: { rate: '200mbit', shared: true } })
    upstream = await lab.fakeUpstream()
    site = await startSite(lab, { upstreams: [`${UPSTREAM}=${upstream.url}`] })
  })
  after(() => {
    upstream?.close()
    return lab?.destroy()
  })
  afterEach(() => upstream.clearFaults())

  /** The digest of every blob is computed by the client: `ok` means the right bytes. */
  const pullThrough = async (...faults: WireFault[]) => {
    const repository = `lab/fake-${++count}`
    const image = await upstream.addImage({ repository, tag: '1', layers: [4 * MIB, 4 * MIB] })
    for (const fault of faults) await upstream.fault(fault)
    await upstream.sent()
    const reports = await site.pullAll(repository, '1', { upstream: UPSTREAM, stallMs: 60_000 })
    return { repository, image, reports, sent: await upstream.sent() }
  }

  const assertOk = (reports: PullReport[]) => {
    for (const [i, report] of reports.entries()) assert.ok(report.ok, `node ${i + 1}: ${report.error}`)
  }

  const curable: Record<string, WireFault[]> = {
    '429 with Retry-After': [{ path: '/blobs/', status: 429, retryAfter: 1, count: 4 }],
    '429 for the tag': [{ path: '/manifests/1', status: 429, retryAfter: 1, count: 1 }],
    '500 now and then': [{ path: '/blobs/', status: 500, count: 4, skip: 1 }],
    'truncated bodies': [{ path: '/blobs/', truncate: 700_000, count: 3 }],
    'bodies that stall': [{ path: '/blobs/', stall: 700_000, count: 2 }],
    'connections closed without an answer': [{ path: '/blobs/', hangUp: true, count: 3 }],
    'no Range': [{ path: '/blobs/', noRange: true }],
    'neither Range nor Content-Length': [{ path: '/blobs/', noRange: true, chunked: true }],
    'other bytes, once': [{ path: '/blobs/', corrupt: 100_000, count: 1 }],
  }
  for (const [name, faults] of Object.entries(curable)) {
    test(name, () =>
      explained(
        () => site,
        async () => assertOk((await pullThrough(...faults)).reports),
      ),
    )
  }

  const hopeless: Record<string, WireFault[]> = {
    '500 for ever': [{ path: '/blobs/', status: 500 }],
    'bytes of another digest for ever': [{ path: '/blobs/', corrupt: 100_000 }],
  }
  for (const [name, faults] of Object.entries(hopeless)) {
    test(`${name}: a clear error, and no complete wrong blob`, () =>
      explained(
        () => site,
        async () => {
          const { reports, repository } = await pullThrough(...faults)
          for (const report of reports) {
            assert.ok(!report.ok)
            // The client counts what it got: a wrong blob of the right length would be one that was given as complete.
            for (const blob of report.blobs)
              assert.doesNotMatch(blob.error ?? '', /^wrong bytes \((\d+) of \1\)/)
            assert.ok(report.totalMs < 15_000, `${report.totalMs} ms`)
          }
          await upstream.clearFaults()
          assertOk(await site.pullAll(repository, '1', { upstream: UPSTREAM }))
        },
      ))
  }
})
