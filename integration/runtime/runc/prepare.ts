import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { setTimeout } from 'node:timers/promises'
import { ShoalError } from '../../../base/index.ts'
import { cgroupPlaces, processesIn, removeCgroup } from '../cgroup.ts'
import { criuWords } from '../criu.ts'
import { applyLayer } from '../layer.ts'
import { unmountBelow } from '../mounts.ts'
import { refuseHooks } from '../spec.ts'
import type { OciSpec, Prepared, PrepareOptions } from '../types.ts'
import { readSpec } from './bundle.ts'
import type { Runc } from './command.ts'
import { unpackImage } from './image.ts'
import { specFor } from './spec.ts'
import { type BundleStore, CRIU_CONF, type OwnBundle } from './store.ts'

export interface Place {
  runc: Runc
  bundles: BundleStore
  /** Unpacked images; CRIU's work directories. */
  images: string
  temporary: string
  registry: string
}

/** runc's rule for IDs. */
const ID = /^[A-Za-z0-9_+.-]+$/
const RESTORE_MS = 10 * 60_000

/** @throws NAME_INVALID | BUSY | UNFIT | NOT_FOUND */
export async function prepare(place: Place, options: PrepareOptions, signal: AbortSignal): Promise<Prepared> {
  const { name, recreation, image } = options
  if (!ID.test(name) || name.startsWith('.') || name.length > 128)
    throw new ShoalError('NAME_INVALID', `no name for a container of runc’s: ${name.slice(0, 130)}`)
  if (recreation.spec.process?.terminal)
    throw new ShoalError('UNFIT', 'runc restores no container that has a terminal')
  refuseHooks(recreation.spec)
  if (await place.runc.state(name, signal))
    throw new ShoalError('BUSY', `there is a container ${name} already`)
  const lower =
    image === undefined
      ? undefined
      : await unpackImage({ reference: image, registry: place.registry, dir: place.images, signal })
  const spec = specFor(options)
  return prepared(place, name, await place.bundles.create(name, spec, lower, signal))
}

export function prepared(place: Place, id: string, bundle: OwnBundle): Prepared {
  const { runc, bundles } = place

  async function discard(signal: AbortSignal): Promise<void> {
    await endRestore(bundle.path)
    await runc.end(id, signal)
    await emptyCgroup(bundle.path)
    await bundles.remove(id, signal)
  }

  return {
    id,
    async applyWritable(tar: Readable, signal: AbortSignal) {
      await bundles.unmount(bundle, signal)
      await applyLayer(tar, bundle.writable, { form: bundle.form, signal })
    },
    async start(dir: string, signal: AbortSignal) {
      await bundles.mount(bundle, signal)
      const work = await mkdtemp(join(place.temporary, 'restore-'))
      const pidFile = join(work, 'pid')
      const args = ['restore', '--detach', '--bundle', bundle.path, '--image-path', dir, '--work-path', work]
      const conf = await readFile(join(bundle.path, CRIU_CONF), 'utf8').catch(() => '')
      if (!conf.includes('tcp-close')) args.push('--tcp-established')
      args.push('--file-locks', '--pid-file', pidFile, id)
      try {
        // What had the host's network, or what CRIU took for it, is restored into the one that CRIU runs in.
        const { linux } = await readSpec(bundle.path)
        const netns = linux?.namespaces?.find(({ type }) => type === 'network')?.path
        await runc.detached(args, { signal, timeoutMs: RESTORE_MS, log: join(work, 'runc.log'), netns })
        return { pid: Number(await readFile(pidFile, 'utf8')) }
      } catch (error) {
        const words = await criuWords(work, 'restore.log')
        // Nothing of a half restored container may go on.
        const cleaning = AbortSignal.timeout(30_000)
        await endRestore(bundle.path)
        await runc.end(id, cleaning).catch(() => {})
        await emptyCgroup(bundle.path)
        if (!(error instanceof ShoalError) || error.code !== 'RUNTIME' || words === '') throw error
        throw new ShoalError('RUNTIME', `${id} could not be restored: ${words}`, { cause: error })
      } finally {
        // A CRIU that was killed leaves cgroups mounted there.
        await unmountBelow(work, AbortSignal.timeout(30_000))
        await rm(work, { recursive: true, force: true })
      }
    },
    discard,
  }
}

/**
 * Ends the restores that a daemon which is gone has begun and left: only then it is certain what runs.
 */
export async function endRestores(place: Place, signal: AbortSignal): Promise<void> {
  for (const [id, bundle] of await place.bundles.list()) {
    if (!(await endRestore(bundle.path))) continue
    await place.runc.end(id, signal)
    await emptyCgroup(bundle.path)
  }
}

/** True if one was under way. */
async function endRestore(bundle: string): Promise<boolean> {
  let found = false
  for (const pid of await readdir('/proc')) {
    if (!/^\d+$/.test(pid)) continue
    const args = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0')
    if (!args.includes('restore') || args[args.indexOf('--bundle') + 1] !== bundle) continue
    found = true
    // All of its process group, of which it is the first: CRIU, too.
    kill(-Number(pid))
  }
  return found
}

/** What CRIU had brought to life before it was stopped is in the container's cgroup, which is nobody else's, and goes with it. */
async function emptyCgroup(bundle: string): Promise<void> {
  const text = await readFile(join(bundle, 'config.json'), 'utf8').catch(() => '{}')
  const path = (JSON.parse(text) as OciSpec).linux?.cgroupsPath
  if (!path?.startsWith('/') || path === '/') return
  const places = await cgroupPlaces(path)
  for (let round = 0; round < 50; round++) {
    const pids = new Set((await Promise.all(places.map(processesIn))).flat())
    if (pids.size === 0) {
      for (const place of places) await removeCgroup(place)
      return
    }
    for (const pid of pids) kill(pid)
    await setTimeout(100)
  }
  throw new ShoalError('RUNTIME', `processes in the cgroup ${path} do not end`)
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // Gone.
  }
}
