import assert from 'node:assert/strict'
import { generateKeyPairSync } from 'node:crypto'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { privateKeyFromRaw } from '@libp2p/crypto/keys'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { ShoalError } from '../../base/index.ts'
import { shoal } from './shoal.ts'
import { listen, member, standInManager, startApi, TOKEN, task } from './standins.ts'

/** A port where nobody listens. */
async function freePort(): Promise<number> {
  const at = await listen(() => {})
  await at.close()
  return at.port
}

describe('with a daemon', () => {
  let node: Awaited<ReturnType<typeof startApi>>
  let api: string
  before(async () => {
    node = await startApi()
    api = `127.0.0.1:${node.port}`
  })
  after(() => node.close())

  test('status says where bytes come from, how peers do and what tasks wait for', async () => {
    const { status, out, err } = await shoal(['status', '--api', api])
    assert.deepEqual([status, err], [0, ''])
    assert.match(out, /^node +self \(12D3KooWself\)$/m)
    assert.match(out, /^state +not ready: the store is opening$/m)
    assert.match(out, /^site +default: 2 alive$/m)
    assert.match(
      out,
      /^store +4\.00 KiB of 1\.00 MiB \(0 %\) in 3 blocks, and 8\.00 KiB in containerd's files, 1\.00 KiB kept$/m,
    )
    assert.match(out, /^bytes +local 25 B \(6 %\), peers 300 B \(71 %\), upstream 100 B \(24 %\)$/m)
    assert.match(out, /^docker\.io +\S+ +7 +1 +-$/m)
    assert.match(out, /^other +12D3KooWother +default +alive +977 KiB\/s +1\.5ms +20 B +10 B/m)
    assert.match(
      out,
      /^sha256:\w{12} +docker\.io\/library\/redis +400 B +0\.98 KiB .* self +upstream and peers$/m,
    )
    assert.ok(!out.includes('gone'))
  })

  test('json of each command is what the API said', async () => {
    const status = JSON.parse((await shoal(['status', '--json', '--api', api])).out) as { id: string }
    assert.equal(status.id, '12D3KooWself')
    const peers = JSON.parse((await shoal(['peers', '--json', '--api', api])).out) as { name: string }[]
    assert.deepEqual(
      peers.map(({ name }) => name),
      ['other'],
    )
    const images = JSON.parse((await shoal(['images', '--json', '--api', api])).out) as {
      reference: string
    }[]
    assert.equal(images[0]?.reference, 'docker.io/library/redis:7')
    assert.deepEqual(JSON.parse((await shoal(['gc', '--json', '--api', api])).out), { blobs: 1, bytes: 512 })
    assert.deepEqual(JSON.parse((await shoal(['id', '--json', '--api', api])).out), { id: '12D3KooWself' })
  })

  test('peers, images, gc and id for people', async () => {
    assert.match((await shoal(['peers', '--api', api])).out, /^NAME +ID +SITE +STATE .*\nother /)
    assert.match(
      (await shoal(['images', '--api', api])).out,
      /redis:7 +sha256:\w{12} +linux\/amd64 +0\.98 KiB +40 % +20 % +30 % +- +- +no +\d+d ago +pinned/,
    )
    assert.equal((await shoal(['gc', '--api', api])).out, 'freed 512 B in 1 blobs\n')
    assert.equal((await shoal(['gc', '--all', '--api', api])).out, 'freed 2.00 KiB in 2 blobs\n')
    assert.equal((await shoal(['id', '--api', `http://${api}/`])).out, '12D3KooWself\n')
  })

  test('pin and unpin say what they did, and fail for what is not here or not pinned', async () => {
    const pinned = await shoal(['pin', 'redis:7', '--api', api])
    assert.deepEqual([pinned.status, pinned.err], [0, ''])
    assert.match(
      pinned.out,
      /^pinned docker\.io\/library\/redis:7 sha256:\w{12}: 0\.98 KiB in 3 blobs, 600 B /,
    )
    const json = JSON.parse((await shoal(['pin', 'redis:7', '--json', '--api', api])).out) as {
      pinned: boolean
    }
    assert.equal(json.pinned, true)
    assert.equal((await shoal(['unpin', 'redis:7', '--api', api])).out, 'redis:7 is not pinned any more\n')
    const again = await shoal(['unpin', 'redis:7', '--api', api])
    assert.deepEqual([again.status, again.err], [1, 'shoal: redis:7 is not pinned\n'])
    const none = await shoal(['pin', 'none', '--api', api])
    assert.deepEqual([none.status, none.err], [1, 'shoal: none is not here; pull it first\n'])
    assert.equal((await shoal(['pin', '--api', api])).status, 2)
  })

  test('scrub shows a bar on a terminal and at the end what was bad', async () => {
    const { status, out, err } = await shoal(['scrub', '--rate', '10MB/s', '--api', api], { tty: true })
    assert.deepEqual(
      [status, out.replace(/ in \d+ms \(.*\)/, '')],
      [0, '4.00 KiB in 3 blocks: 1 bad, dropped; what was whole or pinned is being fetched again\n'],
    )
    assert.match(err, /\[=+\] 4\.00 KiB \/ 4\.00 KiB \(100 %\), 1 bad\n$/)
    const json = await shoal(['scrub', '--json', '--api', api])
    assert.equal((JSON.parse(json.out) as { state: string }).state, 'done')
    assert.equal(json.err, '')
    assert.equal((await shoal(['scrub', '--rate', 'fast', '--api', api])).status, 2)
  })

  test('an interrupt cancels a scrub on the daemon', async () => {
    const abort = new AbortController()
    const running = shoal(['scrub', '--api', api], { signal: abort.signal })
    setTimeout(() => abort.abort(), 5)
    const { status, err } = await running
    assert.deepEqual([status, err], [1, 'shoal: interrupted: the scrub is cancelled\n'])
  })

  test('the daemon is found by the environment and by the file', async (t) => {
    assert.equal((await shoal(['id'], { env: { SHOAL_API: api } })).out, '12D3KooWself\n')
    const dir = await mkdtemp(join(tmpdir(), 'shoal-cli-'))
    t.after(() => rm(dir, { recursive: true }))
    const file = join(dir, 'c.yaml')
    await writeFile(file, `api: ${api}\n`)
    assert.equal((await shoal(['id', '--config', file])).out, '12D3KooWself\n')
    assert.equal((await shoal(['id'], { env: { SHOAL_CONFIG: file } })).out, '12D3KooWself\n')
    const token = join(dir, 'token')
    await writeFile(token, 'wrong\n')
    const refused = await shoal(['gc', '--api', api, '--api-token', token])
    assert.deepEqual([refused.status, refused.err], [1, 'shoal: the token is not the right one\n'])
    await writeFile(token, `${TOKEN}\n`)
    assert.equal((await shoal(['gc', '--api', api, '--api-token', token])).status, 0)
  })

  /** Lets a pull that a command starts go on. */
  const begun = async (count: number): Promise<(typeof node.gates)[number]> => {
    while (node.gates.length < count) await new Promise((resolve) => setTimeout(resolve, 5))
    return node.gates[count - 1]!
  }

  test('pull shows blobs as lines, and at the end where the bytes came from', async () => {
    const running = shoal(['pull', 'redis:7', '--platform', 'linux/arm64', '--api', api])
    const gate = await begun(1)
    gate.progress(500)
    gate.go()
    const { status, out, err } = await running
    assert.equal(status, 0, err)
    assert.deepEqual(node.wanted[0], { reference: 'redis:7', platform: 'linux/arm64' })
    assert.match(err, /^sha256:\w{12} manifest 10 B peers$/m)
    assert.match(err, /^sha256:\w{12} layer 990 B upstream$/m)
    assert.match(out, /^redis:7@sha256:\w{64}\n0\.98 KiB in /)
    assert.match(out, /: local 0 B, peers 10 B \(1 %\), upstream 990 B \(99 %\)\n$/)
  })

  test('pull draws bars on a terminal that fit in it', async () => {
    const running = shoal(['pull', 'redis:7', '--api', api], { tty: true })
    const gate = await begun(2)
    gate.progress(500)
    gate.go()
    const { status, err } = await running
    assert.equal(status, 0)
    assert.ok(err.includes('\x1b[J'))
    const esc = '\x1b'
    const bare = err.replaceAll(new RegExp(`${esc}\\[\\d*[AJ]|\\r`, 'g'), '')
    for (const line of bare.split('\n')) assert.ok(line.length < 60, line)
    assert.match(bare, /0\.98 KiB of 0\.98 KiB \(100 %\)/)
  })

  test('pull --json prints the pull and nothing else', async () => {
    const running = shoal(['pull', 'redis:7', '--json', '--api', api])
    ;(await begun(3)).go()
    const { status, out, err } = await running
    assert.deepEqual([status, err], [0, ''])
    assert.equal((JSON.parse(out) as { state: string }).state, 'done')
  })

  test('a pull that fails says why', async () => {
    const running = shoal(['pull', 'no/such', '--api', api])
    ;(await begun(4)).go(new ShoalError('NOT_FOUND', 'docker.io/no/such:latest does not exist'))
    const { status, out, err } = await running
    assert.deepEqual([status, out], [1, ''])
    assert.match(err, /shoal: docker\.io\/no\/such:latest does not exist\n$/)
  })

  test('an interrupt cancels the pull', async () => {
    const abort = new AbortController()
    const running = shoal(['pull', 'redis', '--api', api], { signal: abort.signal })
    const gate = await begun(5)
    gate.progress(1)
    abort.abort()
    const { status, err } = await running
    assert.equal(status, 1)
    assert.match(err, /shoal: interrupted: the pull is cancelled\n$/)
    const pulls = (await (await fetch(`${node.url}/api/v1/pulls`)).json()) as { state: string }[]
    assert.equal(pulls.at(-1)?.state, 'cancelled')
  })

  test('a name that cannot be one', async () => {
    const { status, err } = await shoal(['pull', 'a b', '--api', api])
    assert.equal(status, 1)
    assert.match(err, /reference must be an image name/)
  })
})

test('a pull goes on by asking where the event stream breaks', async (t) => {
  const node = await startApi()
  // In front of the API, as a proxy that does not let event streams through.
  const front = await listen(async (req, res) => {
    if (req.url?.startsWith('/api/v1/events')) return void res.writeHead(502).end('no')
    const body = await new Response(req as never).text()
    const headers = { 'content-type': 'application/json', authorization: `Bearer ${TOKEN}` }
    const answer = await fetch(`${node.url}${req.url}`, {
      method: req.method ?? 'GET',
      headers,
      ...(body === '' ? {} : { body }),
    })
    res.writeHead(answer.status, { 'content-type': 'application/json' }).end(await answer.text())
  })
  t.after(async () => {
    await front.close()
    await node.close()
  })
  const running = shoal(['pull', 'redis', '--json', '--api', `127.0.0.1:${front.port}`])
  while (node.gates.length < 1) await new Promise((resolve) => setTimeout(resolve, 5))
  node.gates[0]!.go()
  const { status, out, err } = await running
  assert.equal(status, 0, err)
  assert.equal((JSON.parse(out) as { state: string }).state, 'done')
})

test('a daemon that dies in mid-pull is a failure, not a hang', async () => {
  const node = await startApi()
  const running = shoal(['pull', 'redis', '--api', `127.0.0.1:${node.port}`])
  while (node.gates.length < 1) await new Promise((resolve) => setTimeout(resolve, 5))
  node.server.close()
  node.server.closeAllConnections()
  const { status, err } = await running
  assert.equal(status, 1)
  assert.match(err, /shoal: (no daemon at|cannot talk to the daemon at) /)
  await node.api.close()
})

test('what waits for what', async () => {
  const { manager } = standInManager([member('self'), member('c1'), member('c2', 'suspect')])
  const { waitingFor } = await import('../../cli/api/views.ts')
  const at = (over: Parameters<typeof task>[1]): string =>
    waitingFor(task('x', { leases: 0, peers: 0, ...over }), manager)
  assert.equal(at({ coordinator: member('c2').id, peers: 3 }), 'its coordinator c2, which is suspect')
  assert.equal(at({ coordinator: member('c1').id }), 'an answer of its coordinator c1')
  assert.equal(at({ coordinator: member('c1').id, peers: 1 }), 'peers')
  assert.equal(at({ leases: 1 }), 'upstream')
  assert.equal(at({}), 'a neighbour that has it, or upstream')
  assert.equal(at({ state: 'done' }), 'nothing')
})

describe('without a daemon', () => {
  test('status says so in one line and fails', async () => {
    const api = `127.0.0.1:${await freePort()}`
    const { status, out, err } = await shoal(['status', '--api', api])
    assert.deepEqual([status, out, err], [1, '', `shoal: no daemon at ${api}; start one with: shoal serve\n`])
    const json = await shoal(['status', '--json', '--api', api])
    assert.equal((JSON.parse(json.err) as { error: { code: string } }).error.code, 'NO_DAEMON')
  })

  test('something else at its address is no daemon', async (t) => {
    const at = await listen((_req, res) => void res.end('<html>'))
    t.after(() => at.close())
    const { status, err } = await shoal(['status', '--api', `127.0.0.1:${at.port}`])
    assert.equal(status, 1)
    assert.match(err, /what answers at .* is no Shoal daemon/)
  })

  test('id is read from the data directory, as libp2p has it', async (t) => {
    const dir = await mkdtemp(join(tmpdir(), 'shoal-id-'))
    t.after(() => rm(dir, { recursive: true }))
    const { privateKey } = generateKeyPairSync('ed25519')
    await writeFile(join(dir, 'identity.pem'), privateKey.export({ format: 'pem', type: 'pkcs8' }))
    const { d = '', x = '' } = privateKey.export({ format: 'jwk' })
    const raw = Buffer.concat([Buffer.from(d, 'base64url'), Buffer.from(x, 'base64url')])
    const expected = peerIdFromPrivateKey(privateKeyFromRaw(raw)).toString()
    assert.equal((await shoal(['id', '--data-dir', dir])).out, `${expected}\n`)
    const env = { SHOAL_DATA_DIR: dir, SHOAL_API: `127.0.0.1:${await freePort()}` }
    assert.equal((await shoal(['id'], { env })).out, `${expected}\n`)
    await writeFile(join(dir, 'identity.pem'), 'nonsense')
    const bad = await shoal(['id', '--data-dir', dir])
    assert.deepEqual([bad.status, /holds no Ed25519 private key/.test(bad.err)], [2, true])
    const none = await shoal(['id', '--data-dir', join(dir, 'none')])
    assert.deepEqual([none.status, /no identity in .* yet/.test(none.err)], [1, true])
  })
})

describe('the command line itself', () => {
  test('mistakes are status 2 and say what was meant', async () => {
    const cases: [string[], RegExp][] = [
      [[], /^Usage: shoal/],
      [['statsu'], /unknown command 'statsu'\n\(Did you mean status\?\)/],
      [['status', '--jsn'], /unknown option '--jsn'\n\(Did you mean --json\?\)/],
      [['pull'], /missing required argument 'image'/],
      [['mirror', 'install', 'dockr'], /Allowed choices are containerd, docker, podman/],
      [['completion', 'tcsh'], /Allowed choices are bash, zsh, fish/],
      [['serve', '--offline', 'maybe'], /Allowed choices are deny, known, open/],
      [['serve', '--quota', 'much'], /--quota: not a size: much/],
      [['serve', '--config', '/nonexistent/c.yaml'], /cannot read \/nonexistent\/c\.yaml: ENOENT/],
      [['status', '--api', 'nowhere'], /--api: not an ADDR:PORT/],
    ]
    for (const [args, message] of cases) {
      const { status, out, err } = await shoal(args)
      assert.deepEqual([status, out], [2, ''], args.join(' '))
      assert.match(err, message)
    }
  })

  test('every help has an example, and every command --json', async () => {
    const commands = [
      'serve',
      'pull',
      'status',
      'peers',
      'images',
      'id',
      'store',
      'forget',
      'repair',
      'gc',
      'checkpoint',
      'restore',
      'migrate',
      'migrations',
      'drain',
      'mec',
      'mirror',
      'completion',
      'version',
    ]
    const groups = ['mirror', 'mec', 'mec token', 'mec app', 'checkpoint']
    const inner = [
      ...groups,
      'mirror install',
      'mirror uninstall',
      ...['create', 'ls', 'revoke'].map((verb) => `mec token ${verb}`),
      ...['add', 'ls', 'rm'].map((verb) => `mec app ${verb}`),
      ...['create', 'ls', 'inspect', 'rm', 'stop'].map((verb) => `checkpoint ${verb}`),
    ]
    for (const command of ['', ...commands, ...inner]) {
      const { status, out } = await shoal([...command.split(' ').filter((word) => word !== ''), '--help'])
      assert.equal(status, 0)
      assert.match(out, /\nExample:\n {2}\$ .*shoal /, command)
      if (command !== '' && !groups.includes(command)) assert.match(out, /--json/, command)
    }
    const { out } = await shoal(['--help'])
    for (const command of commands) assert.match(out, new RegExp(`^  ${command} `, 'm'))
  })

  test('version', async () => {
    const { version } = JSON.parse(
      await readFile(join(import.meta.dirname, '../../package.json'), 'utf8'),
    ) as {
      version: string
    }
    assert.equal((await shoal(['version'])).out, `${version}\n`)
    assert.equal(
      (JSON.parse((await shoal(['version', '--json'])).out) as { version: string }).version,
      version,
    )
  })

  test('mirror works below another root and prints what it did', async (t) => {
    const root = await mkdtemp(join(tmpdir(), 'shoal-root-'))
    t.after(() => rm(root, { recursive: true }))
    const args = ['docker', '--root', root]
    const { status, out, err } = await shoal(['mirror', 'install', ...args, '--registry', '0.0.0.0:5999'])
    assert.equal(status, 0, err)
    assert.equal(out, `created   ${root}/etc/docker/daemon.json\n`)
    assert.match(err, /systemctl reload docker/)
    assert.match(await readFile(join(root, 'etc/docker/daemon.json'), 'utf8'), /"http:\/\/127\.0\.0\.1:5999"/)
    const noDaemon = await shoal(['mirror', 'install', ...args, '--reload'])
    assert.deepEqual([noDaemon.status, /no running dockerd is named in/.test(noDaemon.err)], [1, true])
    const { changes } = JSON.parse((await shoal(['mirror', 'uninstall', ...args, '--json'])).out) as {
      changes: { action: string }[]
    }
    assert.deepEqual(
      changes.map(({ action }) => action),
      ['restored'],
    )
  })
})
