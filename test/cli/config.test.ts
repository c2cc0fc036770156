import assert from 'node:assert/strict'
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { formatHostPort, isLoopback, parseHostPort } from '../../cli/address.ts'
import { type ConfigInput, defaultDataDir, loadConfig } from '../../cli/config.ts'
import { SETTINGS } from '../../cli/settings.ts'
import { formatDuration, parseDuration, parseRate } from '../../cli/units.ts'

let dir: string
before(async () => {
  dir = await mkdtemp(join(tmpdir(), 'shoal-config-'))
})
after(() => rm(dir, { recursive: true }))

const load = (input: Partial<ConfigInput>) => loadConfig({ flags: {}, env: { HOME: dir }, uid: 0, ...input })

async function file(text: string, mode = 0o600): Promise<string> {
  const path = join(dir, `${Math.random().toString(36).slice(2)}.yaml`)
  await writeFile(path, text)
  await chmod(path, mode)
  return path
}

const fails = (input: Partial<ConfigInput>, message: RegExp) =>
  assert.rejects(load(input), { name: 'ShoalError', code: 'CONFIG', message })

describe('the configuration', () => {
  test('defaults', async () => {
    const config = await load({})
    assert.equal(config.dataDir, '/var/lib/shoal')
    assert.equal(formatHostPort(config.registry), '127.0.0.1:5080')
    assert.equal(formatHostPort(config.api), '127.0.0.1:5081')
    assert.deepEqual(config.listen, ['/ip4/0.0.0.0/tcp/5082'])
    assert.equal(config.site, 'default')
    assert.equal(config.offline, 'known')
    assert.equal(config.tagTtl, 30_000)
    assert.equal(config.mdns, false)
    assert.equal(config.apiToken, '/var/lib/shoal/api.token')
    assert.equal(config.quota, undefined)
    assert.deepEqual(config.warnings, [])
  })

  test("containerd's files are served from unless that is turned off", async () => {
    assert.equal((await load({ flags: { 'containerd-root': '/somewhere' } })).containerdRoot, '/somewhere')
    assert.equal((await load({})).borrow, true)
    const off = await file('containerd-root: root\nborrow: false\n')
    assert.equal((await load({ file: off })).containerdRoot, join(dir, 'root'))
    assert.equal((await load({ file: off })).borrow, false)
    assert.equal((await load({ file: off, flags: { borrow: true } })).borrow, true)
    assert.equal((await load({ flags: { borrow: false } })).borrow, false)
  })

  test('runc has its usual state directory where it is installed', async () => {
    assert.equal((await load({})).runc, undefined)
    await writeFile(join(dir, 'runc'), '', { mode: 0o755 })
    assert.equal((await load({ env: { PATH: `/nowhere:${dir}` } })).runc, '/run/runc')
    assert.equal((await load({ flags: { runc: '/run/other' } })).runc, '/run/other')
  })

  test('unprivileged state is below $XDG_STATE_HOME or the home', () => {
    assert.equal(defaultDataDir({ XDG_STATE_HOME: '/x' }, 1000), '/x/shoal')
    assert.equal(defaultDataDir({ HOME: '/home/u' }, 1000), '/home/u/.local/state/shoal')
    assert.equal(
      defaultDataDir({ HOME: '/home/u', XDG_STATE_HOME: 'relative' }, 1000),
      '/home/u/.local/state/shoal',
    )
  })

  test('flag > environment > file > default, for each kind of value', async () => {
    const path = await file(
      'site: from-file\nname: from-file\nquota: 1000\nmdns: true\nbootstrap: [dns:file]\nupstream: {docker.io: http://file}\n',
    )
    const env = {
      HOME: dir,
      SHOAL_SITE: 'from-env',
      SHOAL_QUOTA: '2KiB',
      SHOAL_BOOTSTRAP: 'dns:a, http://b:5081',
      SHOAL_UPSTREAM: 'docker.io=http://env,quay.io=http://q',
      SHOAL_MDNS: 'false',
    }
    const inFile = await load({ file: path })
    assert.deepEqual(
      [inFile.site, inFile.quota, inFile.mdns, inFile.bootstrap],
      ['from-file', 1000, true, ['dns:file']],
    )
    const inEnv = await load({ file: path, env })
    assert.deepEqual(
      [inEnv.site, inEnv.name, inEnv.quota, inEnv.mdns],
      ['from-env', 'from-file', 2048, false],
    )
    assert.deepEqual(inEnv.bootstrap, ['dns:a', 'http://b:5081'])
    assert.deepEqual(inEnv.upstream, { 'docker.io': 'http://env', 'quay.io': 'http://q' })
    const flags = {
      site: 'from-flag',
      mdns: true,
      bootstrap: ['/ip4/10.0.0.1/tcp/5082'],
      upstream: ['a=http://x/y=z'],
    }
    const inFlags = await load({ file: path, env, flags })
    assert.deepEqual([inFlags.site, inFlags.mdns], ['from-flag', true])
    assert.deepEqual(inFlags.bootstrap, ['/ip4/10.0.0.1/tcp/5082'])
    assert.deepEqual(inFlags.upstream, { a: 'http://x/y=z' })
  })

  test('an empty variable counts as none', async () => {
    assert.equal((await load({ env: { HOME: dir, SHOAL_SITE: '' } })).site, 'default')
  })

  test('a bad value is named with where it stands', async () => {
    await fails({ flags: { quota: 'lots' } }, /^--quota: not a size: lots$/)
    await fails({ flags: { quota: '0' } }, /^--quota: must be more than nothing/)
    await fails({ env: { HOME: dir, SHOAL_TAG_TTL: 'soon' } }, /^SHOAL_TAG_TTL: not a duration/)
    await fails({ flags: { registry: '127.0.0.1' } }, /^--registry: not an ADDR:PORT/)
    await fails({ flags: { registry: '1.2.3.4:70000' } }, /^--registry/)
    await fails({ flags: { offline: 'maybe' } }, /^--offline: must be deny, known, open, not "maybe"/)
    await fails({ flags: { listen: ['0.0.0.0:5082'] } }, /^--listen: not a multiaddr/)
    await fails({ flags: { bootstrap: ['10.0.0.1'] } }, /^--bootstrap: not a multiaddr, http/)
    await fails({ flags: { upstream: ['docker.io'] } }, /^--upstream: not of the form HOST=URL/)
    await fails({ flags: { upstream: ['local=http://x'] } }, /local is the cluster's own registry/)
    await fails({ flags: { upstream: ['docker.io=ftp://x'] } }, /not an http or https URL/)
    await fails({ flags: { upstream: ['docker.io=http://me:secret@x'] } }, /use the config file: docker\.io$/)
    await fails({ flags: { name: 'a b' } }, /^--name: not a name/)
    await fails({ file: await file('quota: lots') }, /\.yaml: quota: not a size/)
    await fails({ file: await file('mdns: maybe') }, /"mdns" must be true or false/)
    await fails({ env: { HOME: dir, SHOAL_MDNS: 'maybe' } }, /^SHOAL_MDNS: must be true, false/)
  })

  test('a file that cannot be read or understood', async () => {
    await fails({ file: join(dir, 'none.yaml') }, /cannot read .*none\.yaml: ENOENT/)
    await fails({ file: await file('- a\n- b\n') }, /must be a mapping/)
    await fails({ file: await file('site: [a') }, /\.yaml: /)
    await fails({ file: await file('site: a\nsite: b\n') }, /unique/i)
    await fails({ file: await file('site: {a: b}\n') }, /"site" must be a plain value/)
    await fails({ file: await file('upstream: docker.io=http://x\n') }, /"upstream" must be a mapping/)
    assert.equal((await load({ file: await file('') })).site, 'default')
  })

  test('an unknown key is an error that names the nearest', async () => {
    await fails({ file: await file('qouta: 10GiB\n') }, /unknown key "qouta"; did you mean "quota"\?/)
    await fails({ file: await file('clusterKey: x\n') }, /did you mean "cluster-key"\?/)
    await fails({ file: await file('zzzzzzzzzz: x\n') }, /unknown key "zzzzzzzzzz"$/)
    await fails(
      { file: await file('credentials: {a: {user: x, password: y}}\n') },
      /unknown key "user"; did you mean "username"\?/,
    )
  })

  test('a variable that is nearly a setting is told of, others are not', async () => {
    const env = {
      HOME: dir,
      SHOAL_QOUTA: '1',
      SHOAL_NODE: 'x',
      SHOAL_SERVICE_HOST: 'x',
      SHOAL_PORT: 'tcp://x',
    }
    const { warnings } = await load({ env })
    assert.deepEqual(warnings, ['SHOAL_QOUTA is not a setting; did you mean SHOAL_QUOTA? It is ignored'])
  })

  test('paths in the file are relative to it', async () => {
    const path = await file('cluster-key: keys/k\nca: [a.pem, /b.pem]\ncontainerd: unix:///run/c.sock\n')
    const config = await load({ file: path })
    assert.equal(config.clusterKey, join(dir, 'keys/k'))
    assert.deepEqual(config.ca, [join(dir, 'a.pem'), '/b.pem'])
    assert.equal(config.containerd, 'unix:///run/c.sock')
  })

  test('images to store, in the file only', async () => {
    const store = (text: string) => file(`store: ${text}\n`)
    const config = await load({
      file: await store('[{image: redis:7, copies: 2}, {image: h.test/a, copies: 1, platform: all}]'),
    })
    assert.deepEqual(config.store, [
      { reference: 'redis:7', copies: 2 },
      { reference: 'h.test/a', copies: 1, platform: 'all' },
    ])
    assert.deepEqual((await load({})).store, [])
    const refused = async (text: string, message: RegExp) => fails({ file: await store(text) }, message)
    await refused('redis:7', /"store" must be a list/)
    await refused('[redis:7]', /"store" must be a list/)
    await refused('[{image: redis:7}]', /the copies of redis:7 must be a number/)
    await refused('[{image: redis:7, copies: 0}]', /the copies of redis:7 must be a number/)
    await refused('[{image: a, copies: 1, platform: arm}]', /the platform of a must be OS\/ARCH/)
    await refused('[{copies: 2}]', /needs an image/)
    await refused('[{image: redis:7, copys: 2}]', /unknown key "copys"; did you mean "copies"/)
  })

  test('credentials, out of the file and of a password-file', async () => {
    await writeFile(join(dir, 'secret'), 's3cret\n')
    const text = [
      'credentials:',
      '  docker.io: {username: me, password: 123}',
      '  "registry.lan:5000": {username: you, password-file: secret}',
    ].join('\n')
    const config = await load({ file: await file(text) })
    assert.deepEqual(config.credentials, {
      'docker.io': { username: 'me', password: '123' },
      'registry.lan:5000': { username: 'you', password: 's3cret' },
    })
    assert.deepEqual(config.warnings, [])
    const open = await load({ file: await file(text, 0o644) })
    assert.match(open.warnings.join(), /everybody on this machine can read it/)
    const bad = (inner: string, message: RegExp) =>
      file(`credentials: {h: ${inner}}`).then((path) => fails({ file: path }, message))
    await bad('{username: a}', /need either a password or a password-file/)
    await bad('{username: a, password: b, password-file: c}', /need either/)
    await bad('{password: b}', /need a username/)
    await bad('{username: a, password-file: none}', /cannot read .*none: ENOENT/)
  })

  test('every setting can be given by flag, by environment and in the file', async () => {
    const samples: Record<string, string> = {
      listen: '/ip4/1.2.3.4/tcp/1',
      bootstrap: 'dns:x',
      upstream: 'h=http://x',
      quota: '1GiB',
      offer: '1GiB',
      'leave-delay': '1m',
      'repair-rate': '1MB/s',
      mdns: 'true',
      borrow: 'false',
      encrypter: 'tls',
      offline: 'open',
      'log-level': 'warn',
      'quota-low': '80%',
      'min-free': '2GiB',
      'scrub-every': '30d',
      'upload-rate': '8Mbit',
      'download-rate': '1MB/s',
      'tag-ttl': '1m',
      'entitlement-ttl': '1m',
      'local-copies': '3',
      'local-ack': 'local-first',
      'mec-cert': 'x1',
      'mec-key': 'x1',
      'mec-place': 'DE@52.52,13.40',
      'mec-packages': 'https://packages.example/',
      'pod-cgroup': '/pods',
      'pod-runtime': 'docker',
    }
    for (const { name, list, map, argument } of SETTINGS) {
      const text = samples[name] ?? (/registry|api$|mec/.test(name) ? '127.0.0.1:1' : 'x1')
      const flag = argument === undefined ? text === 'true' : list || map ? [text] : text
      const byFlag = await load({ flags: { [name]: flag } })
      const byEnv = await load({
        env: { HOME: dir, [`SHOAL_${name.toUpperCase().replaceAll('-', '_')}`]: text },
      })
      assert.deepEqual(byFlag, byEnv, name)
      assert.notDeepEqual(byFlag, await load({}), name)
    }
  })
})

describe('units and addresses', () => {
  test('percentages, and what is no fit watermark', async () => {
    const percent = async (text: string) => (await load({ flags: { 'quota-low': text } })).quotaLow
    assert.deepEqual([await percent('85'), await percent('62.5%'), await percent('100 %')], [0.85, 0.625, 1])
    for (const text of ['0', '101', '-5', 'half', '0.9x']) {
      await fails({ flags: { 'quota-low': text } }, /^--quota-low: not a percentage/)
    }
    const { quotaLow, minFree, scrubEvery } = await load({})
    assert.deepEqual([quotaLow, minFree, scrubEvery], [0.9, 0, 7 * 86400e3])
    assert.equal((await load({ flags: { 'scrub-every': '0' } })).scrubEvery, 0)
  })

  test('durations', () => {
    assert.deepEqual(
      ['10s', '5m', '500ms', '1m30s', '2h', '1d', '7', '1.5s'].map(parseDuration),
      [10e3, 300e3, 500, 90e3, 7200e3, 86400e3, 7e3, 1500],
    )
    for (const bad of ['', '5', 'm', '5x', '-5s', '5 s', '1e3s'].filter((text) => text !== '5')) {
      assert.throws(() => parseDuration(bad), { code: 'CONFIG' }, bad)
    }
    assert.deepEqual([0, 999, 3250, 59_000, 3_725_000, 90_000_000, 86_400_000].map(formatDuration), [
      '0ms',
      '999ms',
      '3.3s',
      '59s',
      '1h 2m',
      '1d 1h',
      '1d',
    ])
  })

  test('rates', () => {
    assert.deepEqual(['100Mbit/s', '1gbit', '10MB/s', '10MiB', '8kbps'].slice(0, 4).map(parseRate), [
      12.5e6,
      125e6,
      10e6,
      10 * 2 ** 20,
    ])
    assert.throws(() => parseRate('fast'), { message: /not a rate/ })
  })

  test('addresses', () => {
    assert.deepEqual(parseHostPort('[::1]:5080'), { host: '::1', port: 5080 })
    assert.deepEqual(parseHostPort(':5080'), { host: '0.0.0.0', port: 5080 })
    assert.equal(formatHostPort({ host: '::1', port: 1 }), '[::1]:1')
    for (const bad of ['::1:5080', '[localhost]:1', 'a:', 'a:b', 'a:1:2', 'http://a:1']) {
      assert.throws(() => parseHostPort(bad), { code: 'CONFIG' }, bad)
    }
    assert.deepEqual(
      ['127.0.0.1', '127.8.9.1', '::1', '::ffff:127.0.0.1', '10.0.0.1', '127.evil', '::ffff:10.0.0.1'].map(
        isLoopback,
      ),
      [true, true, true, true, false, false, false],
    )
  })
})
