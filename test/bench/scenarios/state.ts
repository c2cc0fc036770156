import { createHash } from 'node:crypto'
import { closeSync, mkdtempSync, openSync, readdirSync, readSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { constants, zstdCompressSync } from 'node:zlib'
import { type Digest, silentLog } from '../../../base/index.ts'
import { openBlockStore } from '../../../blockstore/index.ts'
import { type Captured, createStates, type States } from '../../../integration/state/index.ts'
import { type Manager, startManager } from '../../../manager/index.ts'
import { startRedis } from '../redis.ts'
import { mebibytes, median, percent, type Row, type Scenario, seconds, times } from '../report.ts'

const KEYS = 200_000
const REWRITTEN = 2000
const VERSIONS = 10
const PAGE = 4096

interface Node {
  manager: Manager
  states: States
  close(): Promise<void>
}

async function startNode(
  dir: string,
  name: string,
  bootstrap: string[],
  clusterKeyFile?: string,
): Promise<Node> {
  const home = join(dir, name)
  const log = silentLog()
  const store = await openBlockStore({ dir: join(home, 'store'), log })
  const manager = await startManager({
    dataDir: home,
    store,
    listen: ['/ip4/127.0.0.1/tcp/0'],
    bootstrap,
    name,
    site: 'bench',
    storing: { offer: 0, leaveAfterMs: 600_000 },
    log,
    ...(clusterKeyFile === undefined ? {} : { clusterKeyFile }),
  })
  const states = createStates({ manager, store, dir: join(home, 'states'), log })
  return {
    manager,
    states,
    async close() {
      await states.close()
      await manager.close()
      await store.close()
    },
  }
}

/** Pages of a dump whose contents no page of the dump before has, compared without Shoal's code; and all that it has. */
function changedPages(dir: string, before: Set<string>): { pages: Buffer[]; all: Set<string>; size: number } {
  const pages: Buffer[] = []
  const all = new Set<string>()
  let size = 0
  const page = Buffer.alloc(PAGE)
  for (const name of readdirSync(dir)) {
    const fd = openSync(join(dir, name), 'r')
    size += statSync(join(dir, name)).size
    for (let at = 0; ; at += PAGE) {
      const bytes = page.subarray(0, readSync(fd, page, 0, PAGE, at))
      if (bytes.length === 0) break
      const hash = createHash('sha256').update(bytes).digest('base64')
      if (!before.has(hash) && !all.has(hash) && name.startsWith('pages-')) pages.push(Buffer.from(bytes))
      all.add(hash)
    }
    closeSync(fd)
  }
  return { pages, all, size }
}

/** Milliseconds. */
interface Restored {
  /** Its files written from blobs that are here. */
  files: number
  /** By CRIU, from these. */
  processes: number
}

const filesOf = (dir: string) =>
  readdirSync(dir).map((name) => ({ path: `criu/${name}`, from: join(dir, name) }))

const signal = (): AbortSignal => AbortSignal.timeout(120_000)

async function clock<T>(work: Promise<T>): Promise<{ value: T; ms: number }> {
  const begun = performance.now()
  return { value: await work, ms: performance.now() - begun }
}

interface Version {
  captured: Captured
  captureMs: number
  /** On the other node, over the version before. */
  assembleMs: number
  /** Of the pages that really changed, and these compressed. */
  changed: number
  compressed: number
}

async function measure(dir: string, runs: number, say: (line: string) => void) {
  const redis = await startRedis({ dir })
  const nodes: Node[] = []
  try {
    const source = await startNode(dir, 'source', [])
    nodes.push(source)
    const address = `${source.manager.self.addrs[0]}/p2p/${source.manager.self.id}`
    const key = join(dir, 'source', 'cluster.key')
    const target = await startNode(dir, 'target', [address], key)
    nodes.push(target)
    const origin = ({ digest }: { digest: Digest }) => target.manager.elsewhere(digest)
    await redis.set(Array(KEYS).keys())
    const moving = join(dir, 'moving')
    const versions: Version[] = []
    let known = new Set<string>()

    async function next(name: string): Promise<Version> {
      const dump = await redis.dump(name)
      const before = versions.at(-1)?.captured.recipe
      const base = before === undefined ? {} : { base: before }
      const capture = await clock(source.states.capture({ files: filesOf(dump), ...base, signal: signal() }))
      const captured = capture.value
      const previous = before === undefined ? {} : { previous: before }
      const { recipe } = captured
      const assemble = await clock(
        target.states.assemble({ recipe, dir: moving, ...previous, origin, signal: signal() }),
      )
      const { pages, all } = changedPages(dump, known)
      known = all
      const options = { params: { [constants.ZSTD_c_compressionLevel]: 1 } }
      const compressed = pages.length === 0 ? 0 : zstdCompressSync(Buffer.concat(pages), options).length
      rmSync(dump, { recursive: true })
      const version = {
        captured,
        captureMs: capture.ms,
        assembleMs: assemble.ms,
        changed: pages.length * PAGE,
        compressed,
      }
      versions.push(version)
      const times = `captured in ${seconds(capture.ms)}, assembled in ${seconds(assemble.ms)}`
      say(`  ${name}: ${mebibytes(captured.changed)} of ${mebibytes(captured.size)} new, ${times}`)
      return version
    }

    await next('version 1')
    const idle = await next('idle')
    for (let i = 2; i <= VERSIONS; i++) {
      await redis.set(Array.from({ length: REWRITTEN }, () => Math.floor(Math.random() * KEYS)))
      await next(`version ${i}`)
    }
    const first: Restored[] = []
    const last: Restored[] = []
    await redis.stop()
    for (let run = 0; run < Math.max(3, runs); run++) {
      for (const [times, { captured }] of [
        [first, versions[0]!],
        [last, versions.at(-1)!],
      ] as const) {
        const into = join(dir, 'restored')
        rmSync(into, { recursive: true, force: true })
        const { recipe } = captured
        const { ms: files } = await clock(
          target.states.assemble({ recipe, dir: into, origin, signal: signal() }),
        )
        const { ms: processes } = await clock(redis.restore(join(into, 'criu')))
        await redis.stop()
        times.push({ files, processes })
      }
    }
    return { versions, idle, first, last }
  } finally {
    for (const node of nodes.reverse()) await node.close()
    await redis.stop()
  }
}

const whole = (restored: Restored[]): number => median(restored.map((each) => each.files + each.processes))
const parts = (restored: Restored[]): string =>
  `${seconds(median(restored.map(({ files }) => files)))} + ${seconds(median(restored.map(({ processes }) => processes)))}`

function rowsOf({ versions, idle, first, last }: Awaited<ReturnType<typeof measure>>): Row[] {
  const moved = versions.slice(2)
  const worst = moved.reduce((a, b) =>
    b.captured.changed / b.changed > a.captured.changed / a.changed ? b : a,
  )
  const ratio = worst.captured.changed / worst.changed
  const share = idle.captured.added / idle.captured.size
  const blobs = new Map(versions.flatMap(({ captured }) => captured.blobs.map((b) => [b.digest, b.size])))
  const stored = [...blobs.values()].reduce((a, b) => a + b, 0)
  const deltas = versions.reduce((total, { compressed }) => total + compressed, 0)
  const row = (what: string, of: Omit<Row, 'criterion' | 'what'>): Row => ({
    criterion: 'state 3',
    what,
    ...of,
  })
  const frozen = moved.map(({ captureMs, assembleMs }) => captureMs + assembleMs)
  return [
    row(
      `new bytes of a dump after ${REWRITTEN} of ${KEYS} keys were rewritten, before compression; worst of ${moved.length}`,
      {
        baseline: `${mebibytes(worst.changed)} (pages that changed)`,
        shoal: mebibytes(worst.captured.changed),
        figure: times(ratio),
        target: '<= 1.5x',
        ok: ratio <= 1.5,
      },
    ),
    row('bytes that a second checkpoint of an idle Redis adds', {
      baseline: mebibytes(idle.captured.size),
      shoal: `${(idle.captured.added / 1024).toFixed(0)} KiB`,
      figure: percent(share, 2),
      target: '< 1 %',
      ok: share < 0.01,
    }),
    row(`bytes of ${versions.length} versions, recipes too`, {
      baseline: `${mebibytes(deltas)} (their deltas, zstd -1)`,
      shoal: mebibytes(stored),
      figure: times(stored / deltas),
      target: '<= 1.1x',
      ok: stored <= 1.1 * deltas,
    }),
    row(`version ${VERSIONS} restored, against version 1: files written, then processes restored`, {
      baseline: parts(first),
      shoal: parts(last),
      figure: times(whole(last) / whole(first)),
      target: '<= 1.5x',
      ok: whole(last) <= 1.5 * whole(first),
    }),
    row('a frozen round between two nodes: captured on one, assembled on the other; median', {
      baseline: `${seconds(versions[0]!.captureMs + versions[0]!.assembleMs)} (all of it)`,
      shoal: `${seconds(median(moved.map((v) => v.captureMs)))} + ${seconds(median(moved.map((v) => v.assembleMs)))}`,
      figure: seconds(median(frozen)),
      target: '-',
      ok: true,
    }),
  ]
}

export const state: Scenario = {
  name: 'state',
  about: `a Redis of 160 MiB dumped by CRIU, ${REWRITTEN} of ${KEYS} keys rewritten between ${VERSIONS} versions`,
  async run({ runs, say }) {
    const dir = mkdtempSync(join(tmpdir(), 'shoal-bench-'))
    try {
      return rowsOf(await measure(dir, runs, say))
    } finally {
      rmSync(dir, { recursive: true, force: true })
    }
  },
}
