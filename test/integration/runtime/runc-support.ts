import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, rmdir, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { OciSpec, Runtime } from '../../../integration/runtime/index.ts'
import { run } from '../../../integration/runtime/run.ts'
import { createRuncRuntime } from '../../../integration/runtime/runc/index.ts'
import type { ContractKit } from '../runtime-contract.ts'
import { quiet } from './layer-support.ts'

export interface RuncPlace {
  runtime: Runtime
  dir: string
  /** A bundle with busybox in it, never run. */
  bundle(name: string, args: string[], change?: (spec: OciSpec) => void): Promise<string>
  /** Runs it, without a terminal and with /dev/null for stdio, or another file for its output. */
  start(name: string, bundle: string, output?: string): Promise<void>
  startContract: ContractKit['start']
  /** Another driver of the same place, as of the next daemon. */
  again(): Promise<Runtime>
  close(): Promise<void>
}

/** A runc with a state directory and cgroups of its own. */
export async function createRuncPlace(registry = '127.0.0.1:1'): Promise<RuncPlace> {
  const dir = await mkdtemp(join(tmpdir(), 'shoal-runc-'))
  const cgroup = `/shoal-test-${process.pid}-${dir.slice(-6)}`
  const root = join(dir, 'state')
  const again = (): Promise<Runtime> => createRuncRuntime({ root, registry, dir: join(dir, 'shoal') })
  const runtime = await again()

  const place: RuncPlace = {
    runtime,
    dir,
    again,
    async bundle(name, args, change) {
      const path = join(dir, 'bundles', name)
      await mkdir(join(path, 'rootfs/bin'), { recursive: true })
      await copyFile('/bin/busybox', join(path, 'rootfs/bin/busybox'))
      await run('runc', ['spec'], { cwd: path, signal: quiet })
      const spec = JSON.parse(await readFile(join(path, 'config.json'), 'utf8')) as OciSpec
      spec.process = { ...spec.process, args, terminal: false, rlimits: [] }
      spec.root = { path: 'rootfs', readonly: false }
      spec.linux = { ...spec.linux, cgroupsPath: `${cgroup}/${name}` }
      change?.(spec)
      await writeFile(join(path, 'config.json'), JSON.stringify(spec))
      return path
    },
    async start(name, path, output = '/dev/null') {
      const script =
        'exec runc --root "$0" --log "$1/log" run --detach --bundle "$1" "$2" </dev/null >"$3" 2>&1'
      await run('sh', ['-c', script, root, path, name, output], { signal: quiet })
    },
    async startContract({ name, script, shared, netns }) {
      const path = await place.bundle(name, ['/bin/busybox', 'sh', '-c', script], (spec) => {
        if (shared) {
          const options = ['rbind', 'rw']
          spec.mounts = [
            ...(spec.mounts ?? []),
            { destination: '/shared', type: 'bind', source: shared, options },
          ]
        }
        if (netns) {
          const others = (spec.linux?.namespaces ?? []).filter(({ type }) => type !== 'network')
          spec.linux = { ...spec.linux, namespaces: [...others, { type: 'network', path: netns }] }
        }
      })
      await place.start(name, path)
      return name
    },
    async close() {
      const signal = AbortSignal.timeout(60_000)
      for (const { id } of await runtime.list(signal)) await runtime.remove(id, signal)
      await runtime.close()
      for (const at of ['', ...(await readdir('/sys/fs/cgroup'))])
        await rmdir(join('/sys/fs/cgroup', at, cgroup)).catch(() => {})
      await rm(dir, { recursive: true, force: true })
    },
  }
  return place
}
