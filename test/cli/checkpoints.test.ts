import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { type Digest, ShoalError } from '../../base/index.ts'
import type { Checkpoint, Checkpoints, Container } from '../../integration/index.ts'
import { assertDescribed } from './described.ts'
import { standInPlatform } from './platform-twin.ts'
import { shoal as run } from './shoal.ts'
import { startApi } from './standins.ts'

const CHECKPOINT: Checkpoint = {
  name: 'redis',
  version: 3,
  recipe: `sha256:${'1'.repeat(64)}` as Digest,
  digest: `sha256:${'2'.repeat(64)}` as Digest,
  container: { name: 'redis', runtime: 'containerd', image: { reference: 'docker.io/library/redis:7' } },
  recreation: undefined,
  needs: {
    arch: 'x64',
    kernel: '6.1',
    cpu: ['avx2'],
    criu: '4.2.1',
    cgroups: 'v2',
    oci: { name: 'runc', version: '1.1.5' },
  },
  node: '12D3KooWnode',
  site: 'default',
  createdAt: 1,
  expiresAt: undefined,
  copies: 2,
  size: 2 ** 20,
  added: 2 ** 10,
  sealedFor: undefined,
}

const CONTAINER: Container = {
  runtime: 'containerd',
  id: 'c1',
  name: 'redis',
  state: 'running',
  pid: 7,
  image: undefined,
  labels: {},
  spec: { ociVersion: '1.0.2' },
}

function twin(over: Partial<Checkpoints> = {}): Checkpoints {
  const plans = new Map<string, Awaited<ReturnType<Checkpoints['schedule']>>>()
  return {
    async create({ onStep }) {
      for (const step of ['check', 'dump']) onStep?.(step)
      return { checkpoint: CHECKPOINT, seconds: { check: 0.1, dump: 0.25 } }
    },
    list: async () => [CHECKPOINT],
    async inspect(reference) {
      if (reference === 'redis:3') return CHECKPOINT
      throw new ShoalError('NOT_FOUND', `there is no checkpoint ${reference}`)
    },
    remove: async () => 1,
    async restore() {
      throw new ShoalError('UNFIT', 'redis:3: CRIU 3.17 is older than 4.2.1')
    },
    async schedule({ container, runtime, everyMs, keep = 3 }) {
      const plan = { name: 'redis', container: 'redis', id: container, runtime, everyMs, keep }
      plans.set('redis', plan)
      return plan
    },
    schedules: () => [...plans.values()],
    unschedule: async (name) => plans.delete(name),
    close: async () => {},
    ...over,
  }
}

async function daemon(over: Partial<Checkpoints> = {}) {
  const checkpoints = twin(over)
  const platform = standInPlatform({ checkpoints: async () => checkpoints })
  platform.runtimes.find = async () => CONTAINER
  const api = await startApi({ platform })
  const shoal = (args: string[]) => run([...args, '--api', `127.0.0.1:${api.port}`])
  return { ...api, shoal }
}

describe('checkpoints by command line', () => {
  test('create follows the job and says what it came to', async (t) => {
    const at = await daemon()
    t.after(() => at.close())
    const { status, out, err } = await at.shoal(['checkpoint', 'create', 'redis', '--leave-running'])
    assert.equal(status, 0, err)
    assert.match(
      out,
      /^redis:3@sha256:2{64}\n1\.00 MiB, of which 1\.00 KiB were new to the swarm\ncheck 0\.10s, dump 0\.25s\n$/,
    )
    const json = await at.shoal(['checkpoint', 'create', 'redis', '--json'])
    assert.equal((JSON.parse(json.out) as { checkpoint: string }).checkpoint, 'redis:3')
  })

  test('ls, inspect, rm, and what does not exist', async (t) => {
    const at = await daemon()
    t.after(() => at.close())
    assert.match((await at.shoal(['checkpoint', 'ls'])).out, /redis:3 +containerd/)
    assert.match(
      (await at.shoal(['checkpoint', 'inspect', 'redis:3'])).out,
      /needs {6}x64, kernel 6\.1, CRIU 4\.2\.1/,
    )
    assert.match((await at.shoal(['checkpoint', 'rm', 'redis:3'])).out, /removed 1 checkpoint/)
    const none = await at.shoal(['checkpoint', 'inspect', 'redis:4'])
    assert.deepEqual([none.status, none.err], [1, 'shoal: there is no checkpoint redis:4\n'])
  })

  test('a restore that is refused says why', async (t) => {
    const at = await daemon()
    t.after(() => at.close())
    const { status, err } = await at.shoal(['restore', 'redis:3', '--name', 'again'])
    assert.equal(status, 1)
    assert.match(err, /shoal: redis:3: CRIU 3\.17 is older than 4\.2\.1/)
  })

  test('plans are made, listed and ended', async (t) => {
    const at = await daemon()
    t.after(() => at.close())
    const made = await at.shoal(['checkpoint', 'create', 'redis', '--every', '30s', '--keep', '5'])
    assert.match(made.out, /redis is checkpointed as redis every 30s, the last 5 are kept/)
    assert.match(
      (await at.shoal(['checkpoint', 'ls'])).out,
      /redis is checkpointed as redis every 30s, 5 kept/,
    )
    assert.equal((await at.shoal(['checkpoint', 'stop', 'redis'])).status, 0)
    assert.equal((await at.shoal(['checkpoint', 'stop', 'redis'])).status, 1)
  })

  test('what makes no sense is refused', async (t) => {
    const at = await daemon()
    t.after(() => at.close())
    for (const args of [
      ['checkpoint', 'create', 'redis', '--keep', '2'],
      ['checkpoint', 'create', 'redis', '--every', '30s', '--expires', '1d'],
      ['checkpoint', 'create', 'redis', '--copies', 'many'],
      ['checkpoint', 'create', 'redis', '--runtime', 'podman'],
      ['checkpoint', 'create', 'redis', '--every', 'often'],
    ]) {
      assert.equal((await at.shoal(args)).status, 2, args.join(' '))
    }
  })

  test('the API answers as it is described', async (t) => {
    const at = await daemon()
    t.after(() => at.close())
    async function ask(method: string, path: string, described: string, body?: unknown) {
      const answer = await fetch(`${at.url}${path}`, {
        method,
        ...(body === undefined
          ? {}
          : { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }),
      })
      const text = await answer.text()
      assertDescribed(method.toLowerCase(), described, {
        status: answer.status,
        headers: Object.fromEntries(answer.headers),
        text,
      })
      return { status: answer.status, body: text === '' ? undefined : JSON.parse(text) }
    }
    const base = '/api/v1/checkpoints'
    assert.equal((await ask('GET', base, base)).status, 200)
    assert.equal((await ask('GET', `${base}/redis:3`, `${base}/{reference}`)).status, 200)
    assert.equal((await ask('GET', `${base}/redis:9`, `${base}/{reference}`)).status, 404)
    assert.equal((await ask('DELETE', `${base}/redis:3`, `${base}/{reference}`)).body.removed, 1)
    const { status, body } = await ask('POST', base, base, { container: 'redis', encryptFor: ['edge-2'] })
    assert.equal(status, 202)
    for (const bad of [
      {},
      { container: 'a b' },
      { container: 'a', copies: 0 },
      { container: 'a', encryptFor: [] },
    ]) {
      assert.equal((await ask('POST', base, base, bad)).status, 400)
    }
    const jobs = '/api/v1/checkpoint-jobs'
    assert.equal((await ask('GET', jobs, jobs)).body.length, 1)
    assert.equal((await ask('GET', `${jobs}/${body.id}`, `${jobs}/{id}`)).status, 200)
    assert.equal((await ask('GET', `${jobs}/none`, `${jobs}/{id}`)).status, 404)
    assert.equal((await ask('DELETE', `${jobs}/${body.id}`, `${jobs}/{id}`)).status, 204)
    const restores = '/api/v1/restores'
    assert.equal((await ask('POST', restores, restores, { checkpoint: 'redis:3' })).status, 202)
    const plans = '/api/v1/checkpoint-plans'
    assert.equal((await ask('POST', plans, plans, { container: 'redis', everyMs: 30_000 })).status, 201)
    assert.equal((await ask('GET', plans, plans)).body.length, 1)
    assert.equal((await ask('DELETE', `${plans}/redis`, `${plans}/{name}`)).status, 204)
    assert.equal((await ask('DELETE', `${plans}/redis`, `${plans}/{name}`)).status, 404)
  })
})
