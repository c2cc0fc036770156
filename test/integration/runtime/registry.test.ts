import assert from 'node:assert/strict'
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { silentLog } from '../../../base/index.ts'
import { createRuntimes } from '../../../integration/runtime/index.ts'
import { ociFacts } from '../../../integration/runtime/oci.ts'
import { uniqueCgroup, withNamespace } from '../../../integration/runtime/spec.ts'

describe('the runtimes of a machine', () => {
  const signal = AbortSignal.timeout(60_000)
  let dir: string
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'shoal-runtimes-'))
  })
  after(() => rm(dir, { recursive: true }))

  test('only what is configured is there', async () => {
    const runtimes = createRuntimes({ registry: '127.0.0.1:5080', dir, log: silentLog() })
    await assert.rejects(runtimes.get('docker'), { code: 'NOT_FOUND' })
    await assert.rejects(runtimes.find('web', { runtime: 'docker', signal }), { code: 'NOT_FOUND' })
    await runtimes.close()
  })

  test('one that does not answer is named, rather than saying that it has no such container', async () => {
    const address = join(dir, 'none.sock')
    const runtimes = createRuntimes({
      containerd: { address },
      registry: '127.0.0.1:5080',
      dir,
      log: silentLog(),
    })
    assert.ok(runtimes.list().includes('containerd'))
    await assert.rejects(runtimes.find('web', { runtime: 'containerd', signal }), (error: Error) => {
      assert.match(error.message, /containerd does not answer at .*none\.sock/)
      return true
    })
    const gone = AbortSignal.abort()
    await assert.rejects(runtimes.find('web', { runtime: 'containerd', signal: gone }), { code: 'ABORTED' })
    await runtimes.close()
  })

  test('a CRIU that does not start, and a crun without it, are no use', async () => {
    async function program(name: string, script: string): Promise<string> {
      const path = join(dir, name)
      await writeFile(path, `#!/bin/sh\n${script}\n`)
      await chmod(path, 0o755)
      return path
    }
    const old = await program(
      'criu',
      'case $1 in --version) echo "Version: 3.17";; *) echo "Error: kernel too new" >&2; exit 1;; esac',
    )
    const bare = await program('crun', 'echo "crun version 1.8"; echo "+SYSTEMD +SELINUX"')
    const facts = await ociFacts({ runc: bare, criu: old, signal })
    assert.deepEqual(facts.oci, { name: 'crun', version: '1.8' })
    assert.equal(facts.criu, undefined)
    assert.equal(facts.why.length, 2)
    assert.match(facts.why.join('; '), /kernel too new/)
    const none = await ociFacts({ runc: join(dir, 'none'), criu: join(dir, 'none'), signal })
    assert.equal(none.criu, undefined)
    assert.match(none.why.join('; '), /not installed/)
  })

  test('a new cgroup beside the old one, in both of its forms', () => {
    assert.match(uniqueCgroup('/pods/web', 'web2'), /^\/pods\/web2-[0-9a-f]{8}$/)
    assert.match(uniqueCgroup('system.slice:docker:abc', 'web'), /^system\.slice:docker:web-[0-9a-f]{8}$/)
    const spec = { ociVersion: '1.0.2', linux: { namespaces: [{ type: 'network' }, { type: 'pid' }] } }
    assert.deepEqual(withNamespace(spec, 'network', '/run/netns/a').linux?.namespaces, [
      { type: 'pid' },
      { type: 'network', path: '/run/netns/a' },
    ])
  })
})
