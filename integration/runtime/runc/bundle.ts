import { readFile, realpath } from 'node:fs/promises'
import { resolve } from 'node:path'
import { type Digest, isDigest, ShoalError } from '../../../base/index.ts'
import { listMounts } from '../mounts.ts'
import type { OciSpec } from '../types.ts'

/** The OCI image annotations for what something is based on. */
export const BASE_NAME = 'org.opencontainers.image.base.name'
export const BASE_DIGEST = 'org.opencontainers.image.base.digest'

/** How a bundle's root file system is made. */
export type Rootfs =
  | { kind: 'plain'; path: string }
  /** Mounted of the image's layers and an upper directory. */
  | { kind: 'overlay'; path: string; upper: string }

/** @throws RUNTIME for a bundle that is not there or is none */
export async function readSpec(bundle: string): Promise<OciSpec> {
  try {
    return JSON.parse(await readFile(`${bundle}/config.json`, 'utf8')) as OciSpec
  } catch (cause) {
    throw new ShoalError('RUNTIME', `the bundle ${bundle} has no good config.json`, { cause })
  }
}

/** A plain directory is all writable layer, on no image; an overlay has its upper directory, on the image that the annotations name. */
export async function rootfsOf(bundle: string, spec: OciSpec): Promise<Rootfs> {
  const named = resolve(bundle, spec.root?.path ?? 'rootfs')
  const path = await realpath(named).catch((cause) => {
    throw new ShoalError('RUNTIME', `the root file system ${named} is not there`, { cause })
  })
  const mount = (await listMounts()).find((each) => each.path === path)
  if (mount?.type !== 'overlay') return { kind: 'plain', path }
  const upper = mount.options.get('upperdir')
  if (!upper)
    throw new ShoalError('UNFIT', `the root file system ${path} is an overlay without a writable layer`)
  return { kind: 'overlay', path, upper }
}

export function imageOf(
  spec: OciSpec,
  rootfs: Rootfs,
): { reference: string; digest: Digest | undefined } | undefined {
  const reference = spec.annotations?.[BASE_NAME]
  const digest = spec.annotations?.[BASE_DIGEST]
  if (rootfs.kind === 'plain' || !reference) return undefined
  return { reference, digest: digest && isDigest(digest) ? digest : undefined }
}
