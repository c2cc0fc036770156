import { ShoalError } from '../../base/index.ts'
import { install, readJournal, takeOutAll, uninstall } from './apply.ts'
import { CONFIG, keepsMirrors } from './docker.ts'
import { readBelow } from './journal.ts'
import { planContainerd, planDocker, planPodman, reverseEdits } from './plans.ts'
import type { MirrorOptions, MirrorPlan, MirrorResult } from './types.ts'

export { RELOAD_HINTS, reloadRuntime } from './reload.ts'
export type * from './types.ts'

export type Runtime = 'containerd' | 'docker' | 'podman'

const PLANS: Record<Runtime, (root: string, options: MirrorOptions) => Promise<MirrorPlan>> = {
  containerd: planContainerd,
  docker: planDocker,
  podman: planPodman,
}

/**
 * Points a runtime at Shoal's registry by editing its configuration below `root`. Doing it again changes nothing, or
 * changes what the options changed.
 * @throws ShoalError CONFIG when a file cannot be read, understood or written; nothing is changed then | USAGE
 */
export async function installMirror(
  runtime: Runtime,
  root: string,
  options: MirrorOptions,
): Promise<MirrorResult> {
  for (const host of options.hosts) {
    if (!/^[A-Za-z0-9.-]+(:\d+)?$/.test(host)) throw new ShoalError('USAGE', `not a registry's host: ${host}`)
  }
  const { edits, notes } = await PLANS[runtime](root, options)
  return { runtime, changes: await install(root, runtime, options, edits), notes }
}

/** Takes Shoal out of a runtime's configuration again: byte for byte where nobody has edited it since. */
export async function uninstallMirror(
  runtime: Runtime,
  root: string,
  fallback: MirrorOptions,
): Promise<MirrorResult> {
  const journal = await readJournal(root, runtime)
  const paths = journal?.files.map(({ path }) => path)
  const edits = await reverseEdits(runtime, root, journal?.options ?? fallback, paths)
  const changes = journal ? await uninstall(root, journal, edits) : await takeOutAll(root, edits)
  const notes = changes.flatMap(({ file, action }) => {
    if (action === 'removed') return [`${file} was edited since: only Shoal's part was taken out`]
    if (action === 'gone') return [`${file} is gone already`]
    return []
  })
  const changed = changes.some(({ action }) => action === 'restored' || action === 'removed')
  if (runtime === 'docker' && changed && keepsMirrors((await readBelow(root, CONFIG))?.toString())) {
    notes.push(
      'a running docker forgets its last mirror at a restart only, not at a reload; until then it falls back to docker.io when Shoal does not answer',
    )
  }
  if (changes.length === 0) notes.push(`Shoal is not in the configuration of ${runtime}`)
  return { runtime, changes, notes }
}
