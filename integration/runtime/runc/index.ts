import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { ShoalError } from '../../../base/index.ts'
import { readLayer } from '../layer.ts'
import { unmountBelow } from '../mounts.ts'
import { ociFacts } from '../oci.ts'
import { run } from '../run.ts'
import { mountedAt } from '../spec.ts'
import type { Container, Runtime } from '../types.ts'
import { imageOf, readSpec, rootfsOf } from './bundle.ts'
import { createRunc, type RuncState } from './command.ts'
import { dump } from './dump.ts'
import { exec } from './exec.ts'
import { endRestores, type Place, prepare, prepared } from './prepare.ts'
import { createBundleStore, type OwnBundle } from './store.ts'

export interface RuncOptions {
  /** runc's state directory. */
  root: string
  /** Path of the CRIU to use. Default: the one that is found. */
  criu?: string
  /** Default `runc`. */
  command?: string
  /** Where base images come from, HOST:PORT. */
  registry: string
  /** For bundles and unpacked images. */
  dir: string
}

const START_MS = 60_000
/** How podman and CRI-O mark what is theirs, and would not know of a move. */
const MANAGER = 'io.container.manager'

/**
 * Containers that were made of plain bundles, `runc run`: runc knows no images and no names but IDs. Labels are the
 * configuration's annotations. What is restored gets a bundle below `dir`; another's bundle is never removed, only its container.
 */
export async function createRuncRuntime(options: RuncOptions): Promise<Runtime> {
  const { root, criu, command, dir, registry } = options
  const runc = createRunc({ root, ...(command ? { command } : {}), ...(criu ? { criu } : {}) })
  const temporary = join(dir, 'tmp')
  const bundles = createBundleStore(join(dir, 'bundles'))
  const place: Place = { runc, bundles, images: join(dir, 'images'), temporary, registry }
  await endRestores(place, AbortSignal.timeout(START_MS))
  await unmountBelow(temporary, AbortSignal.timeout(START_MS))
  await rm(temporary, { recursive: true, force: true })
  await mkdir(temporary, { recursive: true, mode: 0o700 })

  /** Of one that was prepared and not started, too, of which runc knows nothing yet. @throws NOT_FOUND */
  async function stateOf(id: string, signal: AbortSignal): Promise<RuncState> {
    const state = await runc.state(id, signal)
    if (state) return state
    const own = await bundles.find(id)
    if (!own) throw new ShoalError('NOT_FOUND', `runc has no container ${id}`)
    return notStarted(id, own)
  }

  async function all(signal: AbortSignal): Promise<RuncState[]> {
    const known = await runc.list(signal)
    const ids = new Set(known.map(({ id }) => id))
    const others = (await bundles.list()).filter(([id]) => !ids.has(id))
    return [...known, ...others.map(([id, own]) => notStarted(id, own))]
  }

  async function containerOf(state: RuncState): Promise<Container> {
    const spec = await readSpec(state.bundle)
    // Without its root file system it is still one that can be looked at and removed.
    const rootfs = await rootfsOf(state.bundle, spec).catch(() => undefined)
    return {
      runtime: 'runc',
      id: state.id,
      name: state.id,
      state: state.status,
      pid: state.pid > 0 && state.status !== 'stopped' ? state.pid : undefined,
      image: rootfs && imageOf(spec, rootfs),
      labels: { ...spec.annotations },
      spec,
    }
  }

  async function inspect(container: string, signal: AbortSignal): Promise<Container> {
    const known = await all(signal)
    const exact = known.find(({ id }) => id === container)
    const found = exact ? [exact] : known.filter(({ id }) => container !== '' && id.startsWith(container))
    if (found.length !== 1)
      throw new ShoalError(
        'NOT_FOUND',
        `runc has ${found.length === 0 ? 'no' : 'more than one'} container ${container}`,
      )
    const one = await containerOf(found[0]!)
    const manager = one.spec.annotations?.[MANAGER]
    if (manager) throw new ShoalError('NOT_FOUND', `runc’s container ${container} is managed by ${manager}`)
    return one
  }

  return {
    name: 'runc',
    async facts(signal) {
      const { oci, criu: version, why } = await ociFacts({ runc: command, criu, signal })
      const help = await run(command ?? 'runc', ['checkpoint', '--help'], { signal }).catch(() => undefined)
      if (help && !help.stdout.includes('--image-path')) why.push(`${oci.name} has no checkpoint command`)
      const root = process.getuid?.() === 0
      if (!root) why.push('Shoal does not run as root')
      const can = version !== undefined && why.length === 0
      return {
        name: 'runc',
        version: oci.version,
        oci,
        criu: version,
        can: { checkpoint: can, restore: can, run: root && oci.version !== '' },
        why,
      }
    },
    async list(signal) {
      const known = await all(signal)
      const read = await Promise.all(known.map((state) => containerOf(state).catch(() => undefined)))
      return read
        .filter((container) => container !== undefined)
        .filter(({ spec }) => spec.annotations?.[MANAGER] === undefined)
    },
    inspect,
    async describe(id, signal) {
      const { name, image, labels, spec } = await containerOf(await stateOf(id, signal))
      return { runtime: 'runc', name, image, labels, spec, own: {} }
    },
    async pause(id, signal) {
      if ((await stateOf(id, signal)).status !== 'paused') await runc.call(['pause', id], { signal })
    },
    async resume(id, signal) {
      if ((await stateOf(id, signal)).status === 'paused') await runc.call(['resume', id], { signal })
    },
    dump: (id, wanted, signal) => dump(place, id, wanted, signal),
    async writable(id, signal): Promise<Readable> {
      const { bundle } = await stateOf(id, signal)
      const spec = await readSpec(bundle)
      const rootfs = await rootfsOf(bundle, spec)
      return rootfs.kind === 'overlay'
        ? readLayer(rootfs.upper, { form: 'overlay', signal })
        : readLayer(rootfs.path, { form: 'plain', hidden: mountedAt(spec), signal })
    },
    prepare: (wanted, signal) => prepare(place, wanted, signal),
    async prepared(id) {
      const bundle = await bundles.find(id)
      if (!bundle) throw new ShoalError('NOT_FOUND', `Shoal has no bundle ${id}`)
      return prepared(place, id, bundle)
    },
    exec: (id, args, { timeoutMs, signal }) => exec({ runc, temporary }, id, args, { timeoutMs, signal }),
    async remove(id, signal) {
      const own = await bundles.find(id)
      const state = await runc.state(id, signal)
      if (own) await prepared(place, id, own).discard(signal)
      else await runc.end(id, signal)
      return own !== undefined || state !== undefined
    },
    async close() {},
  }
}

function notStarted(id: string, { path }: OwnBundle): RuncState {
  return { id, pid: 0, status: 'created', bundle: path, rootfs: `${path}/rootfs` }
}
