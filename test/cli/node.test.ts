import assert from 'node:assert/strict'
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import type { ImageView, PullStatus } from '../../cli/api/index.ts'
import type { StatusAnswer } from '../../cli/commands/status.ts'
import { type FakeRegistry, startFakeRegistry } from '../fakes/registry.ts'
import { assertDescribed } from './described.ts'

/** Two whole nodes as processes, and the commands against them: what the stand-ins of the other tests stand for. */
const MAIN = join(import.meta.dirname, '../../cli/main.ts')

interface Ready {
  id: string
  registry: string
  api: string
}

describe('two nodes', () => {
  let dir: string
  let upstream: FakeRegistry
  const children: ChildProcess[] = []

  async function serve(name: string, ...args: string[]): Promise<Ready & { child: ChildProcess }> {
    const flags = [
      ...['--data-dir', join(dir, name), '--name', name, '--listen', '/ip4/127.0.0.1/tcp/0'],
      ...['--registry', '127.0.0.1:0', '--api', '127.0.0.1:0', '--upstream', `docker.io=${upstream.url}`],
      ...[
        '--cluster-key',
        join(dir, 'a/cluster.key'),
        '--no-borrow',
        '--log-level',
        'warn',
        '--json',
        ...args,
      ],
    ]
    if (name === 'a') flags.splice(flags.indexOf('--cluster-key'), 2)
    const child = spawn(process.execPath, [MAIN, 'serve', ...flags], { stdio: ['ignore', 'pipe', 'inherit'] })
    children.push(child)
    const line = await Promise.race([once(child.stdout!, 'data'), once(child, 'exit')])
    assert.equal(child.exitCode, null, 'it serves')
    return { ...(JSON.parse(String(line[0])) as Ready), child }
  }

  /** Runs a command to its end. */
  function shoal(...args: string[]): Promise<{ status: number; out: string; err: string }> {
    return new Promise((resolve) => {
      execFile(process.execPath, [MAIN, ...args], { timeout: 60_000 }, (error, out, err) => {
        resolve({ status: error ? Number(error.code ?? 1) : 0, out, err })
      })
    })
  }

  let a: Awaited<ReturnType<typeof serve>>
  let b: Awaited<ReturnType<typeof serve>>
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'shoal-nodes-'))
    upstream = await startFakeRegistry()
    upstream.addImage({ repository: 'library/app', tag: '1', layers: [3_000_000, 50_000], gzip: false })
    a = await serve('a')
    b = await serve('b', '--bootstrap', `http://${a.api}`)
  })
  after(async () => {
    for (const child of children) child.kill('SIGKILL')
    await upstream.close()
    await rm(dir, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 })
  })

  test('they find each other by the API', async () => {
    for (let alive = 0; alive < 2; ) {
      const { out } = await shoal('status', '--json', '--api', b.api)
      alive = (JSON.parse(out) as StatusAnswer).members.alive ?? 0
    }
    assert.match((await shoal('peers', '--api', b.api)).out, /^a +…\w{8} +default +alive/m)
    assert.equal((await shoal('id', '--api', b.api)).out.trim(), b.id)
    assert.equal((await shoal('id', '--data-dir', join(dir, 'b'))).out.trim(), b.id)
  })

  test('one pulls from upstream, the other from it', async () => {
    const first = await shoal('pull', 'app:1', '--api', a.api)
    assert.equal(first.status, 0, first.err)
    assert.match(first.err, /^sha256:\w{12} layer 2\.86 MiB upstream$/m)
    assert.match(first.out, /upstream 2\.9\d MiB \(100 %\)\n$/)
    const sent = upstream.totalSent()
    const second = await shoal('pull', 'docker.io/library/app:1', '--json', '--api', b.api)
    assert.equal(second.status, 0, second.err)
    const pull = JSON.parse(second.out) as PullStatus
    assert.ok(pull.sources.peers > 3_000_000, second.out)
    assert.ok(upstream.totalSent() - sent < 10_000, 'upstream was asked for the tag at most')
    assert.match(
      (await shoal('images', '--api', b.api)).out,
      /^docker\.io\/library\/app:1 .* all +- +- +- +- +yes +\d+s ago$/m,
    )
    const again = JSON.parse((await shoal('pull', 'app:1', '--json', '--api', b.api)).out) as PullStatus
    assert.equal(again.bytesHere, again.sources.local)
  })

  test('a pinned image stays when all else is evicted', async () => {
    const pinned = await shoal('pin', 'app:1', '--api', b.api)
    assert.match(
      pinned.out,
      /^pinned docker\.io\/library\/app:1 sha256:\w{12}: 2\.91 MiB in 4 blobs\n$/,
      pinned.err,
    )
    assert.match((await shoal('gc', '--all', '--api', b.api)).out, /^freed 0 B/)
    assert.match(
      (await shoal('images', '--api', b.api)).out,
      /^docker\.io\/library\/app:1 .* all .* pinned$/m,
    )
  })

  test('a scrub finds a block that rotted and one that is gone, and the neighbour has them', async () => {
    const blocks = join(dir, 'b/store/blocks')
    const entries = await readdir(blocks, { recursive: true, withFileTypes: true })
    const paths = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name))
    const large: string[] = []
    for (const path of paths) if ((await stat(path)).size === 2 ** 20) large.push(path)
    const [rotten = '', missing = ''] = large
    const good = await readFile(rotten)
    await writeFile(rotten, Buffer.from(good).fill(7, 1000, 1001))
    await rm(missing)
    const sent = upstream.totalSent()
    const { status, out, err } = await shoal('scrub', '--api', b.api)
    assert.equal(status, 0, err)
    // The repair of the one reads the blob, and may come upon the other first.
    assert.match(out, /: [12] bad, dropped; /)
    const image = async () =>
      (JSON.parse((await shoal('images', '--json', '--api', b.api)).out) as ImageView[])[0]
    while (!(await image())?.complete) await new Promise((resolve) => setTimeout(resolve, 50))
    assert.deepEqual(await readFile(rotten), good)
    assert.match((await shoal('scrub', '--api', b.api)).out, /: all good\n$/)
    assert.equal(upstream.totalSent(), sent)
  })

  test('an image that is unpinned goes with the rest', async () => {
    assert.equal((await shoal('unpin', 'app:1', '--api', b.api)).status, 0)
    assert.match((await shoal('gc', '--all', '--api', b.api)).out, /^freed 2\.9\d MiB in 4 blobs/)
    assert.equal((await shoal('images', '--api', b.api)).out, 'no images yet\n')
  })

  test('what is stored by a command is in both, and is forgotten by one', async () => {
    upstream.addImage({ repository: 'library/kept', tag: '1', layers: [2_500_000], gzip: false })
    const stored = await shoal('store', 'kept:1', '--copies', '2', '--api', a.api)
    assert.equal(stored.status, 0, stored.err)
    assert.match(
      stored.out,
      /^docker\.io\/library\/kept:1@sha256:\w{64}\n2\.\d+ MiB in 3 blobs, 2 copies in the site/,
    )
    const line = /^docker\.io\/library\/kept:1 .* 100 % +- +4\.\d+ MiB +2 +yes +\S+/m
    assert.match((await shoal('images', '--api', b.api)).out, line)
    const sent = upstream.totalSent()
    assert.equal((await shoal('pull', 'kept:1', '--api', b.api)).status, 0)
    assert.ok(upstream.totalSent() - sent < 10_000, 'upstream was asked for the tag at most')
    assert.match((await shoal('repair', '--now', '--api', b.api)).out, /^copied 0 blocks, 0 B$/m)
    assert.equal((await shoal('forget', 'kept:1', '--api', b.api)).status, 0)
    assert.match((await shoal('forget', 'kept:1', '--api', a.api)).err, /kept:1 is not stored/)
  })

  test('what the configuration lists is stored', async () => {
    upstream.addImage({ repository: 'library/listed', tag: '1', layers: [300_000], gzip: false })
    const file = join(dir, 'listed.yaml')
    await writeFile(file, 'store: [{ image: "listed:1", copies: 2 }]\n')
    const c = await serve('c', '--bootstrap', `http://${a.api}`, '--config', file)
    for (let found = false; !found; ) {
      const images = JSON.parse((await shoal('images', '--json', '--api', a.api)).out) as ImageView[]
      found = images.some(({ stored }) => stored?.copiesNow === 2)
    }
    const exit = once(c.child, 'exit')
    c.child.kill('SIGTERM')
    await exit
  })

  test('what is not there is said', async () => {
    const { status, err } = await shoal('pull', 'none:1', '--api', a.api)
    assert.equal(status, 1)
    assert.match(err, /^shoal: .*none/m)
    const name = await shoal('pull', 'UPPER CASE', '--api', a.api)
    assert.equal(name.status, 1)
  })

  test('what the API answers is what its description says', async () => {
    for (const path of ['status', 'peers', 'tasks', 'images', 'pulls', 'scrub']) {
      const answer = await fetch(`http://${b.api}/api/v1/${path}`)
      assertDescribed('get', `/api/v1/${path}`, {
        status: answer.status,
        headers: { 'content-type': answer.headers.get('content-type') ?? '' },
        text: await answer.text(),
      })
    }
    const metrics = await (await fetch(`http://${b.api}/metrics`)).text()
    assert.match(metrics, /^shoal_bytes_total\{source="peers"\} \d{7}$/m)
    const events = await fetch(`http://${b.api}/api/v1/events?types=task`)
    const reader = events.body!.getReader()
    const { value } = await reader.read()
    assert.match(Buffer.from(value!).toString(), /^event: task\ndata: \{"digest":"sha256:/)
    await reader.cancel()
  })

  test('both end by SIGTERM with 0', async () => {
    for (const { child } of [b, a]) {
      const exit = once(child, 'exit')
      child.kill('SIGTERM')
      assert.deepEqual(await exit, [0, null])
    }
  })
})
