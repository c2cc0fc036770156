import assert from 'node:assert/strict'
import { test } from 'node:test'
import { cpuFlags, lackingCpu } from '../../../integration/checkpoint/cpu.ts'
import { demandsOf } from '../../../integration/checkpoint/demands.ts'
import { type HostFacts, unfit } from '../../../integration/checkpoint/fitness.ts'
import { hostFacts, hostNeeds } from '../../../integration/checkpoint/host.ts'
import type { HostNeeds } from '../../../integration/checkpoint/types.ts'
import type { Recreation, RuntimeFacts } from '../../../integration/runtime/types.ts'

const MIB = 1024 * 1024

const runtime: RuntimeFacts = {
  name: 'containerd',
  version: '1.6.20',
  oci: { name: 'runc', version: '1.1.5' },
  criu: '4.2.1',
  can: { checkpoint: true, restore: true, run: true },
  why: [],
}
const needs: HostNeeds = {
  arch: 'x64',
  kernel: '6.1.0-13-amd64',
  cpu: ['avx2', 'sse4_2', 'pti', 'vmx'],
  criu: '4.2.1',
  oci: { name: 'runc', version: '1.1.5+ds1' },
  cgroups: 'hybrid',
}
const host: HostFacts = {
  arch: 'x64',
  kernel: '6.1.0-9-amd64',
  cpu: ['sse4_2', 'avx2', 'avx512f'],
  cgroups: 'hybrid',
  runtime,
  missing: [],
  portsTaken: [],
  freeBytes: 1024 * MIB,
  nameTaken: false,
  imageLacks: undefined,
}
const recreation: Recreation = {
  runtime: 'containerd',
  name: 'redis',
  image: { reference: 'docker.io/library/redis:7', digest: undefined },
  labels: {},
  spec: { ociVersion: '1.0.2' },
  own: {},
}
const ask = (changed: Partial<HostFacts>, more: Partial<Parameters<typeof unfit>[0]> = {}): string[] =>
  unfit({
    needs,
    host: { ...host, ...changed },
    recreation,
    name: 'redis',
    runtime: 'containerd',
    size: MIB,
    ...more,
  })

test('a machine like the one it was made on is fit, and so is a newer one', () => {
  assert.deepEqual(ask({}), [])
  const newer = { ...runtime, criu: '5.0', oci: { name: 'runc', version: '1.2.0' } }
  assert.deepEqual(ask({ kernel: '6.12.1', runtime: newer }), [])
})

test('every reason is told, and all of them at once', () => {
  const reasons = ask({
    cpu: ['sse4_2'],
    kernel: '5.10.0',
    cgroups: 'v2',
    runtime: { ...runtime, criu: '3.17.1', oci: { name: 'crun', version: '1.8' } },
    missing: [
      { path: '/srv/data', what: 'mount' },
      { path: '/dev/fuse', what: 'device' },
      { path: '/run/netns/a', what: 'namespace' },
    ],
    portsTaken: [{ protocol: 'tcp', port: 6379 }],
    freeBytes: MIB,
    nameTaken: true,
    imageLacks: 'nobody has it',
  })
  const expected = [
    /processor here lacks avx2,/,
    /kernel 5\.10\.0 is older/,
    /cgroups are v2 here, and hybrid/,
    /runc made it, and containerd runs containers with crun/,
    /CRIU 3\.17\.1 is older than 4\.2\.1/,
    /base image: nobody has it/,
    /source of a mount \/srv\/data/,
    /device \/dev\/fuse/,
    /namespace \/run\/netns\/a/,
    /port 6379\/tcp is taken/,
    /66\.0 MiB are needed|66 MiB are needed/,
    /there is a container redis already/,
  ]
  assert.equal(reasons.length, expected.length, reasons.join('\n'))
  for (const [index, pattern] of expected.entries()) assert.match(reasons[index] ?? '', pattern)
})

test('another architecture is told without its processor flags', () => {
  assert.deepEqual(ask({ arch: 'arm64', cpu: [] }), ['it was made on x64, this machine is arm64'])
})

test('a runtime that is not there, cannot restore, or is another one', () => {
  assert.deepEqual(ask({ runtime: undefined }), ['there is no containerd here'])
  const lame = { ...runtime, can: { ...runtime.can, restore: false }, why: ['criu does not start'] }
  assert.deepEqual(ask({ runtime: lame }), ['criu does not start'])
  assert.match(ask({}, { runtime: 'docker' })[0] ?? '', /made by containerd and cannot be restored by docker/)
})

test('flags that no program can use do not count, on ARM all do', () => {
  assert.deepEqual(lackingCpu('x64', ['pti', 'ibrs', 'vmx', 'nopl', 'constant_tsc'], []), [])
  assert.deepEqual(lackingCpu('x64', ['sha_ni', 'avx512_vnni', 'amx_tile'], ['avx']), [
    'amx_tile',
    'avx512_vnni',
    'sha_ni',
  ])
  assert.deepEqual(lackingCpu('arm64', ['sve', 'asimd'], ['asimd']), ['sve'])
  assert.deepEqual(cpuFlags('processor: 0\nflags\t\t: sse avx sse\n\nflags: other\n'), ['avx', 'sse'])
})

test('what a configuration asks of the machine', () => {
  const spec = {
    ociVersion: '1.0.2',
    mounts: [
      { destination: '/data', type: 'bind', source: '/srv/data', options: ['rbind'] },
      { destination: '/x', source: '/srv/x', options: ['bind', 'ro'] },
      { destination: '/proc', type: 'proc', source: 'proc' },
      { destination: '/etc/hosts', type: 'bind', source: '/var/lib/docker/hosts' },
    ],
    linux: {
      devices: [
        { path: '/dev/null', type: 'c' },
        { path: '/dev/fuse', type: 'c' },
      ],
      namespaces: [
        { type: 'network', path: '/run/netns/a' },
        { type: 'pid' },
        { type: 'ipc', path: '/proc/7/ns/ipc' },
      ],
    },
  }
  const own = {
    HostConfig: { PortBindings: { '6379/tcp': [{ HostIp: '', HostPort: '7000' }], '53/udp': null } },
  }
  const docker: Recreation = { ...recreation, runtime: 'docker', spec, own }
  assert.deepEqual(demandsOf(docker), {
    mounts: ['/srv/data', '/srv/x'],
    devices: ['/dev/fuse'],
    namespaces: ['/run/netns/a'],
    ports: [{ protocol: 'tcp', port: 7000 }],
  })
  const ports = [{ port: 6379, host: 30000 }]
  assert.deepEqual(demandsOf(docker, { ports }).ports, [{ protocol: 'tcp', port: 30000 }])
  assert.deepEqual(demandsOf({ ...docker, runtime: 'containerd' }, { netns: '/run/netns/b' }).namespaces, [])
  assert.ok(demandsOf({ ...docker, runtime: 'containerd' }).mounts.includes('/var/lib/docker/hosts'))
})

test('this machine fits what it made itself', async () => {
  const own = await hostNeeds(runtime)
  const facts = await hostFacts({
    recreation,
    name: 'redis',
    runtime: undefined,
    dir: '/',
    imageLacks: undefined,
    signal: AbortSignal.timeout(10_000),
  })
  const here = { ...facts, runtime, freeBytes: 1024 * MIB }
  assert.deepEqual(
    unfit({ needs: own, host: here, recreation, name: 'redis', runtime: 'containerd', size: 0 }),
    [],
  )
})
