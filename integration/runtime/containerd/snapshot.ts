import { isAbsolute } from 'node:path'
import { ShoalError } from '../../../base/index.ts'
import type { ContainerRecord, Mount } from './api.ts'
import type { ContainerdClient } from './client.ts'

export interface Writable {
  dir: string
  /** As `layer.ts` has it: without anything below it, it is a plain directory. */
  form: 'overlay' | 'plain'
}

/** Where a container's writable layer is. @throws UNFIT for snapshotters that keep none by itself | NOT_FOUND */
export async function writableOf(
  client: ContainerdClient,
  { id, snapshotter, snapshotKey: key }: ContainerRecord,
  signal: AbortSignal,
): Promise<Writable> {
  if (key === '') throw new ShoalError('UNFIT', `${id} has no snapshot of containerd as its root`)
  const { mounts } = await client.snapshots.mounts({ snapshotter, key }, { signal })
  const writable = writableIn(mounts, snapshotter)
  if (!writable)
    throw new ShoalError(
      'UNFIT',
      `${snapshotter}, which ${id} has its root by, is not supported: overlayfs is`,
    )
  return writable
}

/** Undefined where the writable layer is not a directory of its own. */
export function writableIn(mounts: readonly Mount[], snapshotter: string): Writable | undefined {
  const [mount] = mounts
  if (!mount || mounts.length > 1) return undefined
  // What overlayfs makes of an image without layers.
  if (mount.type === 'bind' && snapshotter === 'overlayfs') return { dir: mount.source, form: 'plain' }
  if (mount.type !== 'overlay') return undefined
  const dir = mount.options.find((option) => option.startsWith('upperdir='))?.slice('upperdir='.length)
  return dir !== undefined && isAbsolute(dir) ? { dir, form: 'overlay' } : undefined
}
