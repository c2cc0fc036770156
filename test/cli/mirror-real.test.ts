import assert from 'node:assert/strict'
import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import type { RequestListener } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { promisify } from 'node:util'
import { gzipSync } from 'node:zlib'
import { digestOf } from '../../base/index.ts'
import { installMirror, reloadRuntime, uninstallMirror } from '../../cli/mirror/index.ts'
import { listen } from './standins.ts'

/** The real daemons of this machine with the edited configuration: what counts is that the mirror is asked. */
const run = promisify(execFile)

function missing(...programs: string[]): string | undefined {
  if (process.getuid?.() !== 0) return 'needs root'
  const absent = programs.filter((name) => spawnSync('which', [name]).status !== 0)
  return absent.length > 0 ? `not installed: ${absent.join(', ')}` : undefined
}

/** A registry with one image of one empty layer, whatever it is called, that remembers what it was asked. */
function createMirror(): { listener: RequestListener; asked: string[] } {
  const tar = Buffer.alloc(1024)
  const layer = gzipSync(tar)
  const config = Buffer.from(
    JSON.stringify({
      architecture: process.arch === 'arm64' ? 'arm64' : 'amd64',
      os: 'linux',
      config: {},
      rootfs: { type: 'layers', diff_ids: [digestOf(tar)] },
    }),
  )
  const type = 'application/vnd.docker.distribution.manifest.v2+json'
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: type,
      config: {
        mediaType: 'application/vnd.docker.container.image.v1+json',
        size: config.length,
        digest: digestOf(config),
      },
      layers: [
        {
          mediaType: 'application/vnd.docker.image.rootfs.diff.tar.gzip',
          size: layer.length,
          digest: digestOf(layer),
        },
      ],
    }),
  )
  const blobs = new Map([layer, config].map((bytes) => [digestOf(bytes), bytes]))
  const asked: string[] = []
  return {
    asked,
    listener: (req, res) => {
      asked.push(`${req.method} ${req.url}`)
      const path = (req.url ?? '').split('?')[0] ?? ''
      const blob = blobs.get((path.split('/').at(-1) ?? '') as ReturnType<typeof digestOf>)
      const bytes = path === '/v2/' ? Buffer.from('{}') : path.includes('/manifests/') ? manifest : blob
      if (!bytes) return void res.writeHead(404).end()
      const media = bytes === manifest ? type : 'application/octet-stream'
      res.writeHead(200, {
        'Content-Type': media,
        'Content-Length': bytes.length,
        'Docker-Content-Digest': digestOf(bytes),
      })
      res.end(req.method === 'HEAD' ? undefined : bytes)
    },
  }
}

async function scene(t: TestContext) {
  const dir = await mkdtemp(join(tmpdir(), 'shoal-real-'))
  const root = join(dir, 'root')
  await mkdir(root)
  const mirror = createMirror()
  const at = await listen(mirror.listener)
  // What was started last is stopped first: dockerd needs its containerd for that, and both their directory.
  const cleanups: (() => Promise<unknown>)[] = [
    () => rm(dir, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 }),
    () => at.close(),
  ]
  t.after(async () => {
    for (const cleanup of cleanups.toReversed()) await cleanup()
  })
  return {
    cleanups,
    dir,
    root,
    asked: mirror.asked,
    options: { registry: `127.0.0.1:${at.port}`, hosts: [] },
  }
}

/** Starts a daemon and resolves when `probe` succeeds. It is stopped after the test. */
async function daemon(
  cleanups: (() => Promise<unknown>)[],
  program: string,
  args: string[],
  probe: () => Promise<unknown>,
) {
  const child: ChildProcess = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'] })
  let said = ''
  child.stderr?.on('data', (chunk: Buffer) => {
    said = (said + chunk).slice(-4000)
  })
  const exited = once(child, 'exit')
  cleanups.push(async () => {
    child.kill('SIGTERM')
    const late = setTimeout(() => child.kill('SIGKILL'), 10_000)
    await exited
    clearTimeout(late)
  })
  for (let i = 0; ; i++) {
    if (child.exitCode !== null) throw new Error(`${program} ended: ${said}`)
    try {
      await probe()
      return child
    } catch (error) {
      if (i > 150) throw new Error(`${program} did not start: ${said}`, { cause: error })
      await new Promise((resolve) => setTimeout(resolve, 200))
    }
  }
}

test('containerd takes the configuration, and a pull asks the mirror', {
  skip: missing('containerd', 'ctr') ?? false,
}, async (t) => {
  const { cleanups, dir, root, asked, options } = await scene(t)
  const config = join(root, '/etc/containerd/config.toml')
  await mkdir(join(root, '/etc/containerd'), { recursive: true })
  const { stdout: defaults } = await run('containerd', ['config', 'default'])
  await writeFile(config, defaults)
  await installMirror('containerd', root, options)

  const { stdout: dump } = await run('containerd', ['--config', config, 'config', 'dump'])
  assert.match(dump, /config_path = ["']\/etc\/containerd\/certs\.d["']/)

  const socket = join(dir, 'containerd.sock')
  await daemon(
    cleanups,
    'containerd',
    ['--config', config, '--root', join(dir, 'c'), '--state', join(dir, 's'), '--address', socket],
    () => run('ctr', ['--address', socket, 'version']),
  )
  const image = 'docker.io/library/shoal-mirror-test:1'
  const hosts = join(root, '/etc/containerd/certs.d')
  const pull = ['--address', socket, 'images', 'pull', '--snapshotter', 'native', '--hosts-dir', hosts, image]
  await run('ctr', pull, { timeout: 60_000 })
  assert.ok(asked.includes('HEAD /v2/library/shoal-mirror-test/manifests/1?ns=docker.io'), asked.join('\n'))
  assert.ok(asked.some((line) => line.startsWith('GET /v2/library/shoal-mirror-test/blobs/')))
  await uninstallMirror('containerd', root, options)
  assert.equal(await readFile(config, 'utf8'), defaults)
})

test('dockerd takes the configuration on SIGHUP, and a pull asks the mirror', {
  skip: missing('dockerd', 'docker', 'containerd') ?? false,
}, async (t) => {
  const { cleanups, dir, root, asked, options } = await scene(t)
  const config = join(root, '/etc/docker/daemon.json')
  await mkdir(join(root, '/etc/docker'), { recursive: true })
  await mkdir(join(root, '/run'))
  // With the key there, a reload also notices that the list is empty again.
  const before = '{"log-driver": "json-file", "registry-mirrors": []}'
  await writeFile(config, before)
  const host = `unix://${join(dir, 'docker.sock')}`
  const docker = (...args: string[]) => run('docker', ['-H', host, ...args], { timeout: 60_000 })
  const mirrors = async (): Promise<string> =>
    (await docker('info', '--format', '{{json .RegistryConfig.Mirrors}}')).stdout.trim()
  const until = async (wanted: RegExp): Promise<void> => {
    for (let i = 0; !wanted.test(await mirrors()); i++) {
      assert.ok(i < 100, `docker info shows ${await mirrors()}`)
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
  }
  const socket = join(dir, 'containerd.sock')
  const blank = join(dir, 'containerd.toml')
  await writeFile(blank, 'version = 2\n')
  await daemon(
    cleanups,
    'containerd',
    ['--config', blank, '--root', join(dir, 'c'), '--state', join(dir, 's'), '--address', socket],
    () => run('ctr', ['--address', socket, 'version']),
  )
  const flags = [
    ...['--config-file', config, '--pidfile', join(root, '/run/docker.pid'), '-H', host],
    ...['--data-root', join(dir, 'data'), '--exec-root', join(dir, 'exec'), '--containerd', socket],
    ...['--bridge', 'none', '--iptables=false', '--storage-driver', 'vfs'],
  ]
  await daemon(cleanups, 'dockerd', flags, mirrors)
  await until(/^(\[\]|null)$/)

  await installMirror('docker', root, options)
  assert.match(await reloadRuntime('docker', root), /SIGHUP/)
  await until(new RegExp(`http://${options.registry}/`))
  await docker('pull', 'shoal-mirror-test:1')
  assert.ok(asked.some((line) => /^(HEAD|GET) \/v2\/library\/shoal-mirror-test\/manifests\/1/.test(line)))

  await uninstallMirror('docker', root, options)
  await reloadRuntime('docker', root)
  await until(/^(\[\]|null)$/)
  assert.equal(await readFile(config, 'utf8'), before)
})

test('podman reads the drop-in, and a pull asks the mirror by path', {
  skip: missing('podman', 'unshare', 'mount') ?? false,
}, async (t) => {
  const { dir, root, asked, options } = await scene(t)
  await cp('/etc/containers', join(root, '/etc/containers'), { recursive: true })
  await installMirror('podman', root, options)
  // In a mount namespace of its own, podman finds the edited directory where it always looks.
  const podman = [
    ...['podman', '--root', join(dir, 'storage'), '--runroot', join(dir, 'run')],
    ...['--storage-driver', 'vfs', 'pull', '-q', 'docker.io/library/shoal-mirror-test:1'],
  ]
  const script = 'mount --bind "$1" /etc/containers && shift && exec "$@"'
  const args = ['--mount', 'sh', '-c', script, 'sh', join(root, '/etc/containers'), ...podman]
  await run('unshare', args, { timeout: 60_000 })
  assert.ok(
    asked.includes('GET /v2/docker.io/library/shoal-mirror-test/manifests/1'),
    `not asked for by path: ${asked.join('\n')}`,
  )
})
