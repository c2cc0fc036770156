import { randomBytes } from 'node:crypto'
import { isAbsolute } from 'node:path'
import { ShoalError } from '../../base/index.ts'
import type { OciSpec } from './types.ts'

/** The spec with its namespace of this type being the one at `path`. */
export function withNamespace(spec: OciSpec, type: string, path: string): OciSpec {
  const others = (spec.linux?.namespaces ?? []).filter((one) => one.type !== type)
  return { ...spec, linux: { ...spec.linux, namespaces: [...others, { type, path }] } }
}

/**
 * A cgroup beside this one, named after the container and never used before: a killed runtime may leave an old one behind, frozen
 * even. Both of runc's forms: a path, or `slice:prefix:name` where systemd manages them.
 */
export function uniqueCgroup(path: string, id: string): string {
  const name = `${id}-${randomBytes(4).toString('hex')}`
  const parts = path.split(':')
  if (parts.length === 3) return `${parts[0]}:${parts[1]}:${name}`
  return `${path.slice(0, path.lastIndexOf('/') + 1)}${name}`
}

/** Where the container has something mounted: what lies below is not its writable layer's. */
export function mountedAt(spec: OciSpec): string[] {
  return (spec.mounts ?? []).map((one) => one.destination).filter((path) => isAbsolute(path) && path !== '/')
}

/** @throws UNFIT for a configuration that has programs of its machine run outside of the container: another one runs none for it */
export function refuseHooks({ hooks }: OciSpec): void {
  const lists = Object.values((hooks ?? {}) as Record<string, unknown[] | undefined>)
  if (lists.some((list) => list !== undefined && list.length > 0))
    throw new ShoalError('UNFIT', 'it has hooks: programs of its machine, which no other one runs for it')
}
