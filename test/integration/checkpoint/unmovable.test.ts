import assert from 'node:assert/strict'
import { mkdir, mkdtemp, rm, symlink, truncate, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { openTcp, processesOf } from '../../../integration/checkpoint/processes.ts'
import { readPeers } from '../../../integration/checkpoint/unix-sockets.ts'
import { unmovable } from '../../../integration/checkpoint/unmovable.ts'
import type { Container } from '../../../integration/runtime/types.ts'

/** Beyond what any kernel gives: nobody is disturbed or looked at by it. */
const PID = 5_000_001
const signal = AbortSignal.timeout(30_000)

const OWN = ['pid', 'network', 'ipc', 'uts', 'mount'].map((type) => ({ type }))

function container(spec: Partial<Container['spec']['linux']> = {}, pid: number | undefined = PID): Container {
  return {
    runtime: 'containerd',
    id: 'c',
    name: 'c',
    state: 'running',
    pid,
    image: undefined,
    labels: {},
    spec: { ociVersion: '1.0.2', linux: { namespaces: OWN, ...spec } },
  }
}

interface Process {
  pid: number
  parent: number
  ns: string
  fds: string[]
  tcp?: string
  tracer?: number
}

async function fakeProc(t: TestContext, processes: Process[]): Promise<string> {
  const proc = await mkdtemp(join(tmpdir(), 'shoal-proc-'))
  t.after(() => rm(proc, { recursive: true, force: true }))
  await mkdir(join(proc, 'self/ns'), { recursive: true })
  await symlink('pid:[1]', join(proc, 'self/ns/pid'))
  for (const { pid, parent, ns, fds, tcp = '', tracer = 0 } of processes) {
    const dir = join(proc, String(pid))
    await mkdir(join(dir, 'fd'), { recursive: true })
    await mkdir(join(dir, 'ns'))
    await mkdir(join(dir, 'net'))
    await symlink(ns, join(dir, 'ns/pid'))
    await writeFile(join(dir, 'stat'), `${pid} (a) b) S ${parent} 1 1`)
    await writeFile(join(dir, 'comm'), 'worker\n')
    await writeFile(join(dir, 'status'), `Name:\tworker\nTracerPid:\t${tracer}\n`)
    await writeFile(join(dir, 'net/tcp'), `  sl  local_address\n${tcp}`)
    for (const [fd, target] of fds.entries()) await symlink(target, join(dir, 'fd', String(fd)))
  }
  return proc
}

test('a plain process is movable, its children and who was exec-ed in are looked at too', async (t) => {
  const proc = await fakeProc(t, [
    { pid: PID, parent: 1, ns: 'pid:[7]', fds: ['/dev/null', '/data/file', 'pipe:[9]', '/dev/pts/0'] },
    { pid: PID + 1, parent: PID, ns: 'pid:[8]', fds: [] },
    { pid: PID + 2, parent: 1, ns: 'pid:[7]', fds: [] },
    { pid: PID + 3, parent: 1, ns: 'pid:[1]', fds: ['anon_inode:[io_uring]'] },
  ])
  assert.deepEqual(await processesOf(PID, proc), [PID, PID + 1, PID + 2])
  assert.deepEqual(await unmovable(container(), { signal, proc }), [])
})

test('what CRIU cannot dump is told, all at once', async (t) => {
  const dir = await mkdtemp(join(tmpdir(), 'shoal-ghost-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  const ghost = join(dir, 'big (deleted)')
  await writeFile(ghost, '')
  await truncate(ghost, 2 << 20)
  const established =
    '   0: 0100007F:18EB 0100007F:C0DE 01 00000000:00000000 00:00000000 00000000  0 0 4711 1\n'
  const listening =
    '   1: 0100007F:18EB 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 4712 1\n'
  const proc = await fakeProc(t, [
    {
      pid: PID,
      parent: 1,
      ns: 'pid:[7]',
      fds: ['anon_inode:[io_uring]', '/dev/fuse', 'socket:[4711]', 'socket:[4712]', ghost],
      tcp: established + listening,
    },
    {
      pid: PID + 1,
      parent: PID,
      ns: 'pid:[7]',
      fds: ['anon_inode:[eventpoll]', 'anon_inode:kvm-vm'],
      tracer: 3,
    },
  ])
  const reasons = await unmovable(container(), { signal, proc })
  const expected = [
    /ptrace/,
    /io_uring/,
    /\/dev\/fuse open/,
    /big is deleted.*2(\.0+)? MiB/,
    /KVM/,
    /1 TCP connection is established/,
  ]
  assert.equal(reasons.length, expected.length, reasons.join('\n'))
  for (const pattern of expected)
    assert.ok(
      reasons.some((reason) => pattern.test(reason)),
      String(pattern),
    )
  const kept = await unmovable(container(), { signal, proc, tcpEstablished: true })
  assert.ok(!kept.some((reason) => /TCP/.test(reason)))
})

test('host namespaces, devices and a container that does not run', async () => {
  const spec = {
    namespaces: [{ type: 'pid' }, { type: 'mount' }],
    devices: [
      { path: '/dev/null', type: 'c' },
      { path: '/dev/kvm', type: 'c' },
    ],
  }
  const stopped: Container = { ...container(spec), pid: undefined, state: 'stopped' }
  assert.deepEqual(await unmovable(stopped, { signal }), [
    "it uses the host's network namespace",
    "it uses the host's IPC namespace",
    'it has the device /dev/kvm',
    'it is not running (stopped)',
  ])
})

test('the peers of unix sockets, as ss tells them', () => {
  const text = [
    'u_str ESTAB 0      0      /run/some where.sock 21 * 22',
    'u_seq ESTAB 0      0      * 23 * 24',
    'u_str LISTEN 0     128    /run/a.sock 25 * 0',
    'u_dgr UNCONN 0     0      * 26 * 27',
  ].join('\n')
  assert.deepEqual(
    [...readPeers(text)],
    [
      ['21', '22'],
      ['23', '24'],
    ],
  )
})

test('the tables of this machine are read', async (t) => {
  const server = createServer().listen(0, '127.0.0.1')
  t.after(() => server.close())
  assert.ok((await processesOf(process.pid)).includes(process.pid))
  assert.ok((await openTcp(process.pid)) instanceof Map)
})
