import assert from 'node:assert/strict'
import {
  chmod,
  lstat,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import { installMirror, type Runtime, uninstallMirror } from '../../cli/mirror/index.ts'

const OPTIONS = { registry: '127.0.0.1:5080', hosts: [] as string[] }

async function makeRoot(t: TestContext, files: Record<string, string> = {}): Promise<string> {
  const root = await mkdtemp(join(tmpdir(), 'shoal-mirror-'))
  t.after(() => rm(root, { recursive: true, force: true }))
  for (const [path, text] of Object.entries(files)) {
    await mkdir(dirname(join(root, path)), { recursive: true })
    await writeFile(join(root, path), text)
  }
  return root
}

/** Everything below a directory: files with content and mode, directories by name. */
async function snapshot(root: string): Promise<Record<string, string>> {
  const all: Record<string, string> = {}
  for (const entry of await readdir(root, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name)
    const { mode } = await lstat(path)
    const name = path.slice(root.length)
    all[name] =
      `${(mode & 0o7777).toString(8)} ${entry.isFile() ? await readFile(path, 'utf8') : 'directory'}`
  }
  return all
}

const read = (root: string, path: string) => readFile(join(root, path), 'utf8')

const CONTAINERD = '/etc/containerd/config.toml'
const DEFAULT_HOSTS = '/etc/containerd/certs.d/_default/hosts.toml'
const DOCKER = '/etc/docker/daemon.json'
const PODMAN = '/etc/containers/registries.conf.d/050-shoal.conf'

const V2 = `version = 2

# how pods get their network
[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    sandbox_image = "pause:3" # pinned
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"
`
const V2_DEFAULT = `version = 2
[plugins]
    [plugins."io.containerd.grpc.v1.cri".registry]
      config_path = ""

      [plugins."io.containerd.grpc.v1.cri".registry.configs]

      [plugins."io.containerd.grpc.v1.cri".registry.mirrors]
`
const V3 = `version = 3
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  [plugins.'io.containerd.cri.v1.images'.registry]
    # nothing yet
`

/** Configurations that each runtime may start from; none: no file at all. */
const STARTS: Record<Runtime, Record<string, Record<string, string>>> = {
  containerd: {
    'no file': {},
    'an empty file': { [CONTAINERD]: '' },
    'only comments': { [CONTAINERD]: '# nothing\n' },
    'no newline at the end': { [CONTAINERD]: 'version = 2' },
    CRLF: { [CONTAINERD]: V2.replaceAll('\n', '\r\n') },
    'version 2': { [CONTAINERD]: V2 },
    'the defaults of version 2': { [CONTAINERD]: V2_DEFAULT },
    'version 3': { [CONTAINERD]: V3 },
    'version 1': { [CONTAINERD]: 'root = "/x"\n[plugins.cri]\n  stream_server_port = "0"\n' },
    'another directory': {
      [CONTAINERD]: `version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = '/opt/certs:/etc/docker/certs.d'\n`,
    },
    'a default of its own': {
      [CONTAINERD]: V2,
      [DEFAULT_HOSTS]:
        'server = "https://mirror.lan"\n\n# near\n[host."https://near.lan"]\n  capabilities = ["pull"]\n',
    },
  },
  docker: {
    'no file': {},
    'an empty file': { [DOCKER]: '\n' },
    'an empty object': { [DOCKER]: '{}' },
    'one line': { [DOCKER]: '{"debug":true,"log-driver":"json-file"}' },
    'four spaces': {
      [DOCKER]: '{\n    "debug": true,\n    "registry-mirrors": [\n        "https://m.lan"\n    ]\n}\n',
    },
    'CRLF and tabs': { [DOCKER]: '{\r\n\t"dns": ["1.1.1.1", "a,]}\\""],\r\n\t"x": {"y": [1]}\r\n}\r\n' },
    'an empty list': { [DOCKER]: '{"registry-mirrors": [ ]}' },
  },
  podman: {
    'no file': {},
    'a main file': { '/etc/containers/registries.conf': 'unqualified-search-registries = ["docker.io"]\n' },
    'a drop-in of somebody': {
      '/etc/containers/registries.conf.d/000-x.conf': '[aliases]\n"a" = "b.io/a"\n',
    },
  },
}

for (const runtime of ['containerd', 'docker', 'podman'] as const) {
  describe(runtime, () => {
    for (const [name, files] of Object.entries(STARTS[runtime])) {
      test(`${name}: install, again, uninstall, byte for byte`, async (t) => {
        const root = await makeRoot(t, files)
        const before = await snapshot(root)
        await installMirror(runtime, root, OPTIONS)
        const installed = await snapshot(root)
        assert.notDeepEqual(installed, before)
        const again = await installMirror(runtime, root, OPTIONS)
        assert.deepEqual(await snapshot(root), installed, 'the second install changes nothing')
        assert.ok(again.changes.every(({ action }) => action === 'unchanged'))
        await uninstallMirror(runtime, root, OPTIONS)
        assert.deepEqual(await snapshot(root), before)
        const none = await uninstallMirror(runtime, root, OPTIONS)
        assert.match(none.notes.join(), /is not in the configuration/)
      })

      test(`${name}: other options, then uninstall`, async (t) => {
        const root = await makeRoot(t, files)
        const before = await snapshot(root)
        await installMirror(runtime, root, OPTIONS)
        await installMirror(runtime, root, {
          registry: '10.0.0.7:5080',
          hosts: runtime === 'docker' ? [] : ['quay.io'],
        })
        const texts = Object.entries(await snapshot(root)).filter(([path]) => !path.includes('/etc/shoal/'))
        assert.ok(!JSON.stringify(texts).includes('127.0.0.1:5080'), 'nothing of the first install is left')
        assert.ok(JSON.stringify(texts).includes('10.0.0.7:5080'))
        await uninstallMirror(runtime, root, OPTIONS)
        assert.deepEqual(await snapshot(root), before)
      })

      test(`${name}: without its journal, Shoal's part is still found`, async (t) => {
        const root = await makeRoot(t, files)
        await installMirror(runtime, root, OPTIONS)
        await rm(join(root, '/etc/shoal'), { recursive: true })
        await uninstallMirror(runtime, root, OPTIONS)
        const left = JSON.stringify(await snapshot(root))
        assert.ok(!left.includes('127.0.0.1:5080') && !left.includes('shoal'), left)
        for (const [path, text] of Object.entries(files)) {
          // An empty file and an empty list are as good as none.
          const now = await read(root, path).catch(() => '')
          const gist = (of: string) =>
            of
              .replaceAll(/\s/g, '')
              .replace('"registry-mirrors":[]', '')
              .replace(/^\{\}$/, '')
          assert.equal(gist(now), gist(text))
        }
      })
    }
  })
}

describe('what is written', () => {
  test('containerd 1.x: one table, comments and order kept', async (t) => {
    const root = await makeRoot(t, { [CONTAINERD]: V2 })
    await installMirror('containerd', root, OPTIONS)
    assert.equal(
      await read(root, CONTAINERD),
      `${V2}[plugins."io.containerd.grpc.v1.cri".registry] # shoal mirror\n  config_path = "/etc/containerd/certs.d" # shoal mirror\n`,
    )
    assert.match(
      await read(root, DEFAULT_HOSTS),
      /^\[host\."http:\/\/127\.0\.0\.1:5080"\].*\n {2}capabilities = \["pull", "resolve"\]/m,
    )
  })

  test('containerd 2.x: a line in the table that is there', async (t) => {
    const root = await makeRoot(t, { [CONTAINERD]: V3 })
    await installMirror('containerd', root, OPTIONS)
    const text = await read(root, CONTAINERD)
    assert.match(
      text,
      /images'\.registry\]\n {4}config_path = "\/etc\/containerd\/certs\.d" # shoal mirror\n {4}# nothing yet/,
    )
  })

  test('containerd: an empty config_path is replaced', async (t) => {
    const root = await makeRoot(t, { [CONTAINERD]: V2_DEFAULT })
    await installMirror('containerd', root, OPTIONS)
    const text = await read(root, CONTAINERD)
    assert.equal(text.match(/config_path/g)?.length, 2, text)
    assert.match(
      text,
      /^ {6}config_path = "\/etc\/containerd\/certs\.d" # shoal mirror, was config_path = ""$/m,
    )
  })

  test('containerd: a config_path of its own stays, and its first directory is used', async (t) => {
    const root = await makeRoot(t, STARTS.containerd['another directory'])
    const { changes } = await installMirror('containerd', root, { ...OPTIONS, hosts: ['quay.io'] })
    assert.deepEqual(
      changes.map(({ file, action }) => [file.slice(root.length), action]),
      [
        [CONTAINERD, 'unchanged'],
        ['/opt/certs/quay.io/hosts.toml', 'created'],
      ],
    )
  })

  test('containerd: Shoal comes before the hosts that were there', async (t) => {
    const root = await makeRoot(t, STARTS.containerd['a default of its own'])
    await installMirror('containerd', root, OPTIONS)
    const text = await read(root, DEFAULT_HOSTS)
    assert.match(
      text,
      /^server = .*\n\n\[host\."http:\/\/127\.0\.0\.1:5080"\].*\n.*\n# near\n\[host\."https:\/\/near\.lan"\]/,
    )
  })

  test('containerd: hosts with a file of their own are named', async (t) => {
    const root = await makeRoot(t, { '/etc/containerd/certs.d/quay.io/hosts.toml': 'server = "https://q"\n' })
    const { notes } = await installMirror('containerd', root, OPTIONS)
    assert.match(notes.join(), /^quay\.io has a hosts\.toml of its own.*--host quay\.io$/)
  })

  test('docker: Shoal is the first mirror, plain HTTP only off loopback', async (t) => {
    const root = await makeRoot(t, STARTS.docker['four spaces'])
    await installMirror('docker', root, OPTIONS)
    assert.equal(
      await read(root, DOCKER),
      '{\n    "debug": true,\n    "registry-mirrors": [\n        "http://127.0.0.1:5080",\n        "https://m.lan"\n    ]\n}\n',
    )
    await installMirror('docker', root, { registry: '10.0.0.7:5080', hosts: [] })
    const config = JSON.parse(await read(root, DOCKER)) as Record<string, unknown>
    assert.deepEqual(config, {
      debug: true,
      'registry-mirrors': ['http://10.0.0.7:5080', 'https://m.lan'],
      'insecure-registries': ['10.0.0.7:5080'],
    })
  })

  test('docker: that the last mirror goes at a restart only is said, where that is so', async (t) => {
    const root = await makeRoot(t, { [DOCKER]: '{}' })
    await installMirror('docker', root, OPTIONS)
    assert.match((await uninstallMirror('docker', root, OPTIONS)).notes.join(), /at a restart only/)
    await writeFile(join(root, DOCKER), '{"registry-mirrors": []}')
    await installMirror('docker', root, OPTIONS)
    assert.deepEqual((await uninstallMirror('docker', root, OPTIONS)).notes, [])
  })

  test('podman: the path names the upstream, and what a registry had is kept', async (t) => {
    const root = await makeRoot(t, {
      '/etc/containers/registries.conf': [
        '[[registry]]',
        'prefix = "lab.lan"',
        'location = "lab.lan:5000/all" # here',
        'insecure = true',
        '[[registry.mirror]]',
        'location = "near.lan"',
      ].join('\n'),
      '/etc/containers/registries.conf.d/900-x.conf': '[[registry]]\nlocation = "docker.io"\n',
    })
    const { notes } = await installMirror('podman', root, { ...OPTIONS, hosts: ['docker.io', 'lab.lan'] })
    assert.match(notes.join(), /900-x\.conf has docker\.io too and comes later/)
    const bare = (await read(root, PODMAN))
      .replaceAll(/ *# .*$/gm, '')
      .trim()
      .split('\n\n')
    assert.equal(
      bare[1],
      [
        '[[registry]]',
        'prefix = "lab.lan"',
        'location = "lab.lan:5000/all"',
        'insecure = true',
        '[[registry.mirror]]',
        'location = "127.0.0.1:5080/lab.lan"',
        'insecure = true',
        '[[registry.mirror]]',
        'location = "near.lan"',
      ].join('\n'),
    )
  })

  test('the mode of a file stays, and a symbolic link stays one', async (t) => {
    const root = await makeRoot(t, { '/etc/docker/real.json': '{}' })
    await chmod(join(root, '/etc/docker/real.json'), 0o600)
    await symlink('real.json', join(root, DOCKER))
    await installMirror('docker', root, OPTIONS)
    assert.ok((await lstat(join(root, DOCKER))).isSymbolicLink())
    assert.equal((await stat(join(root, DOCKER))).mode & 0o777, 0o600)
    assert.match(await read(root, '/etc/docker/real.json'), /registry-mirrors/)
    await uninstallMirror('docker', root, OPTIONS)
    assert.equal(await read(root, '/etc/docker/real.json'), '{}')
  })

  test('a backup lies beside the journal, for root only', async (t) => {
    const root = await makeRoot(t, { [DOCKER]: '{"a":1}' })
    await installMirror('docker', root, OPTIONS)
    const home = join(root, '/etc/shoal/mirror/docker')
    const [backup] = (await readdir(home)).filter((name) => name.endsWith('.before'))
    assert.equal(await readFile(join(home, backup!), 'utf8'), '{"a":1}')
    assert.equal((await stat(join(home, backup!))).mode & 0o777, 0o600)
  })
})

describe('a file that somebody edited after the install keeps the edit', () => {
  const cases: [
    string,
    Runtime,
    Record<string, string>,
    string,
    (text: string) => string,
    string | undefined,
  ][] = [
    [
      'containerd, elsewhere',
      'containerd',
      { [CONTAINERD]: V2 },
      CONTAINERD,
      (text) => text.replace('pause:3', 'pause:4'),
      V2.replace('pause:3', 'pause:4'),
    ],
    [
      'containerd, in our table',
      'containerd',
      { [CONTAINERD]: 'version = 2\n' },
      CONTAINERD,
      (text) => `${text}  other = 1\n`,
      'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry] # shoal mirror\n  other = 1\n',
    ],
    [
      'containerd, with a replaced line',
      'containerd',
      { [CONTAINERD]: V2_DEFAULT },
      CONTAINERD,
      (text) => `${text}# more\n`,
      `${V2_DEFAULT}# more\n`,
    ],
    [
      'hosts.toml, in our table and after it',
      'containerd',
      {},
      DEFAULT_HOSTS,
      (text) => `${text}  skip_verify = true\n[host."https://b"]\n  x = [\n  1 ]\n`,
      '[host."https://b"]\n  x = [\n  1 ]\n',
    ],
    [
      'docker, another key',
      'docker',
      {},
      DOCKER,
      (text) => text.replace('\n}', ',\n  "debug": true\n}'),
      '{\n  "debug": true\n}\n',
    ],
    [
      'docker, another mirror behind ours',
      'docker',
      { [DOCKER]: '{"a": 1}' },
      DOCKER,
      (text) => text.replace(']', ', "http://b"]'),
      '{"a": 1, "registry-mirrors": ["http://b"]}',
    ],
    ['docker, ours taken out by hand', 'docker', { [DOCKER]: '{"a":1}' }, DOCKER, () => '{"b":2}', '{"b":2}'],
    [
      'podman, another registry',
      'podman',
      {},
      PODMAN,
      (text) => `${text}[[registry]]\nlocation = "b"\n`,
      '[[registry]]\nlocation = "b"\n',
    ],
  ]
  for (const [name, runtime, files, path, edit, expected] of cases) {
    test(name, async (t) => {
      const root = await makeRoot(t, files)
      await installMirror(runtime, root, OPTIONS)
      await writeFile(join(root, path), edit(await read(root, path)))
      const { changes, notes } = await uninstallMirror(runtime, root, OPTIONS)
      assert.equal(await read(root, path), expected)
      if (changes.some(({ action }) => action === 'removed')) {
        assert.match(notes.join(), /was edited since: only Shoal's part was taken out/)
      }
      assert.ok(!(await readdir(join(root, 'etc'))).includes('shoal'))
    })

    test(`${name}, and another install in between`, async (t) => {
      const root = await makeRoot(t, files)
      await installMirror(runtime, root, OPTIONS)
      await writeFile(join(root, path), edit(await read(root, path)))
      await installMirror(runtime, root, OPTIONS)
      assert.match(await read(root, path), /shoal mirror|127\.0\.0\.1:5080/)
      await uninstallMirror(runtime, root, OPTIONS)
      assert.equal(await read(root, path), expected)
    })
  }

  test('a file that is gone stays gone', async (t) => {
    const root = await makeRoot(t, { [DOCKER]: '{"a":1}' })
    await installMirror('docker', root, OPTIONS)
    await rm(join(root, DOCKER))
    const { notes } = await uninstallMirror('docker', root, OPTIONS)
    assert.match(notes.join(), /is gone already/)
    await assert.rejects(stat(join(root, DOCKER)))
  })
})

describe('what cannot be edited is refused, and nothing is changed', () => {
  const section = 'plugins."io.containerd.grpc.v1.cri".registry'
  const cases: [string, Runtime, Record<string, string>, RegExp][] = [
    [
      'old mirrors',
      'containerd',
      { [CONTAINERD]: `version = 2\n[${section}.mirrors."docker.io"]\n  endpoint = ["https://x"]\n` },
      /config\.toml:2: has registry mirrors of the old form/,
    ],
    [
      'TLS of the old form',
      'containerd',
      { [CONTAINERD]: `version = 2\n[${section}.configs."a.b".tls]\n  ca_file = "x"\n` },
      /old form/,
    ],
    [
      'an inline table',
      'containerd',
      { [CONTAINERD]: 'version = 2\n[plugins]\n"io.containerd.grpc.v1.cri" = { registry = {} }\n' },
      /inline table/,
    ],
    ['no TOML', 'containerd', { [CONTAINERD]: 'version = 2\nwhat is this\n' }, /config\.toml:2: not TOML/],
    ['a version of the future', 'containerd', { [CONTAINERD]: 'version = 9\n' }, /version 9/],
    ['no JSON', 'docker', { [DOCKER]: '{"a": 1,}' }, /daemon\.json is not JSON/],
    ['a list', 'docker', { [DOCKER]: '[]' }, /must be a JSON object/],
    ['mirrors that are no list', 'docker', { [DOCKER]: '{"registry-mirrors": "x"}' }, /must be a list/],
    ['the old form', 'podman', { '/etc/containers/registries.conf': '[registries.search]\n' }, /old form/],
  ]
  for (const [name, runtime, files, message] of cases) {
    test(`${runtime}: ${name}`, async (t) => {
      const root = await makeRoot(t, files)
      const before = await snapshot(root)
      await assert.rejects(installMirror(runtime, root, OPTIONS), { code: 'CONFIG', message })
      assert.deepEqual(await snapshot(root), before)
    })
  }

  test('docker: other registries, and what is no host', async (t) => {
    const root = await makeRoot(t)
    await assert.rejects(installMirror('docker', root, { ...OPTIONS, hosts: ['quay.io'] }), { code: 'USAGE' })
    await assert.rejects(installMirror('containerd', root, { ...OPTIONS, hosts: ['../x'] }), {
      code: 'USAGE',
    })
  })
})
