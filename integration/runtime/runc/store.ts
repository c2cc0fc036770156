import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { ShoalError } from '../../../base/index.ts'
import { listMounts, unmountBelow } from '../mounts.ts'
import { run } from '../run.ts'
import type { OciSpec } from '../types.ts'

/** A bundle that Shoal made: `config.json`, `rootfs/`, for an overlay `upper/` and `work/`, and `criu.conf`. */
export interface OwnBundle {
  readonly path: string
  readonly form: 'plain' | 'overlay'
  /** What a layer is applied to. */
  readonly writable: string
}

export const CRIU_CONF = 'criu.conf'

export interface BundleStore {
  /** @throws BUSY where there is one of that name */
  create(name: string, spec: OciSpec, lower: string | undefined, signal: AbortSignal): Promise<OwnBundle>
  find(name: string): Promise<OwnBundle | undefined>
  /** All of them by name. */
  list(): Promise<[string, OwnBundle][]>
  /** Mounts the root file system of an overlay; idempotent. */
  mount(bundle: OwnBundle, signal: AbortSignal): Promise<void>
  unmount(bundle: OwnBundle, signal: AbortSignal): Promise<void>
  /** Idempotent. */
  remove(name: string, signal: AbortSignal): Promise<void>
}

/** Names the configuration that runc gives CRIU for a container. */
const ANNOTATION = 'org.criu.config'
/** What may be asked of CRIU by the configuration that a container comes with: how it is to take its connections. */
const PASSED_ON = ['tcp-established', 'tcp-close', 'skip-in-flight']

export function createBundleStore(dir: string): BundleStore {
  const pathOf = (name: string): string => join(dir, name)

  async function find(name: string): Promise<OwnBundle | undefined> {
    const path = pathOf(name)
    const lower = await readFile(join(path, 'lower'), 'utf8').catch(() => undefined)
    if (lower === undefined) return undefined
    return lower === ''
      ? { path, form: 'plain', writable: join(path, 'rootfs') }
      : { path, form: 'overlay', writable: join(path, 'upper') }
  }

  async function isMounted(bundle: OwnBundle): Promise<boolean> {
    const rootfs = join(bundle.path, 'rootfs')
    return (await listMounts()).some(({ path }) => path === rootfs)
  }

  const store: BundleStore = {
    find,
    async list() {
      const names = await readdir(dir).catch(() => [])
      const found = await Promise.all(names.map(async (name) => [name, await find(name)] as const))
      return found.flatMap(([name, bundle]): [string, OwnBundle][] => (bundle ? [[name, bundle]] : []))
    },
    async create(name, spec, lower, signal) {
      const path = pathOf(name)
      await mkdir(dir, { recursive: true, mode: 0o700 })
      await mkdir(path, { mode: 0o700 }).catch((cause) => {
        throw (cause as NodeJS.ErrnoException).code === 'EEXIST'
          ? new ShoalError('BUSY', `there is a container ${name} already`)
          : cause
      })
      try {
        for (const each of lower === undefined ? ['rootfs'] : ['rootfs', 'upper', 'work'])
          await mkdir(join(path, each), { mode: 0o755 })
        const config = { ...spec, root: { ...spec.root, path: 'rootfs' } }
        config.annotations = { ...spec.annotations, [ANNOTATION]: join(path, CRIU_CONF) }
        await writeFile(join(path, CRIU_CONF), await criuConf(spec.annotations?.[ANNOTATION]))
        await writeFile(join(path, 'config.json'), JSON.stringify(config, null, 2))
        // Last: with this it is one.
        await writeFile(join(path, 'lower'), lower ?? '')
        return (await find(name))!
      } catch (error) {
        await store.remove(name, signal).catch(() => {})
        throw error
      }
    },
    async mount(bundle, signal) {
      if (bundle.form === 'plain' || (await isMounted(bundle))) return
      const lower = await readFile(join(bundle.path, 'lower'), 'utf8')
      const work = join(bundle.path, 'work')
      const options = [
        `lowerdir=${escaped(lower)}`,
        `upperdir=${escaped(bundle.writable)}`,
        `workdir=${escaped(work)}`,
      ]
      const args = ['-t', 'overlay', 'overlay', '-o', options.join(','), join(bundle.path, 'rootfs')]
      await run('mount', args, { signal })
    },
    async unmount(bundle, signal) {
      await unmountBelow(join(bundle.path, 'rootfs'), signal)
    },
    async remove(name, signal) {
      await unmountBelow(pathOf(name), signal)
      await rm(pathOf(name), { recursive: true, force: true })
    },
  }
  return store
}

/** Cgroups are the container's new ones, whatever CRIU's images say. */
async function criuConf(given: string | undefined): Promise<string> {
  const text = given === undefined ? '' : await readFile(given, 'utf8').catch(() => '')
  const lines = text.split('\n').filter((line) => PASSED_ON.includes(line.trim()))
  return ['manage-cgroups ignore', ...lines, ''].join('\n')
}

/** mount's options end at commas, and the lower directories at colons. */
function escaped(path: string): string {
  return path.replace(/[\\:,]/g, '\\$&')
}
