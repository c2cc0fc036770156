import assert from 'node:assert/strict'
import { cp, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, test } from 'node:test'
import { silentLog } from '../../base/index.ts'
import { openBlockStore } from '../../blockstore/index.ts'
import { type Manager, startManager } from '../../manager/index.ts'

interface Daemon {
  manager: Manager
  dir: string
  address: string
  stop(): Promise<void>
}

const running = new Set<Daemon>()
const directories: string[] = []

afterEach(async () => {
  await Promise.all([...running].map((daemon) => daemon.stop()))
  await Promise.all(directories.splice(0).map((path) => rm(path, { recursive: true, force: true })))
})

async function directory(from?: Daemon): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'shoal-records-'))
  directories.push(path)
  if (from) await cp(join(from.dir, 'cluster.key'), join(path, 'cluster.key'))
  return path
}

/** Real parts from the disk to the sockets. */
async function start(dir: string, name: string, site: string, bootstrap: string[]): Promise<Daemon> {
  const log = silentLog()
  const store = await openBlockStore({ dir: join(dir, 'store'), log })
  const listen = ['/ip4/127.0.0.1/tcp/0']
  const manager = await startManager({
    storing: { offer: 0, leaveAfterMs: 600_000 },
    dataDir: dir,
    store,
    listen,
    bootstrap,
    name,
    site,
    log,
  })
  const daemon: Daemon = {
    manager,
    dir,
    address: manager.self.addrs[0]!,
    async stop() {
      running.delete(daemon)
      await manager.close()
      await store.close()
    },
  }
  running.add(daemon)
  return daemon
}

async function waitFor(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  for (let i = 0; i < 750; i++) {
    if (await condition()) return
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  assert.fail(what)
}

test('records go over real connections to nodes of all sites, and reach one that was away', async () => {
  const a = await start(await directory(), 'a', 'one', [])
  const b = await start(await directory(a), 'b', 'one', [a.address])
  const c = await start(await directory(a), 'c', 'two', [a.address])
  const all = [a, b, c]
  await waitFor('all see all', () => all.every(({ manager }) => manager.members.list().length === 3))

  const value = { digest: 'sha256:1', size: 2 ** 40, list: [null, 'ä', { deep: true }] }
  const stamp = await a.manager.records.put('tag/local/app/v1', value, { copies: 3 })
  for (const { manager } of all) {
    assert.deepEqual(await manager.records.get('tag/local/app/v1'), {
      key: 'tag/local/app/v1',
      value,
      stamp,
      beaten: [],
    })
  }

  await c.stop()
  await waitFor('it has left', () => a.manager.members.find('c')?.state === 'left')
  await b.manager.records.put('tag/local/app/v1', 'new', { copies: 2 })
  for (let i = 0; i < 300; i++) {
    await b.manager.records.put(`manifest/${i}`, 'x'.repeat(2000), { copies: 1 })
  }
  const again = await start(c.dir, 'c', 'two', [a.address])
  await waitFor(
    'it is told what it missed',
    async () =>
      (await again.manager.records.get('tag/local/app/v1'))?.value === 'new' &&
      (await again.manager.records.get('manifest/299')) !== undefined,
  )
})
