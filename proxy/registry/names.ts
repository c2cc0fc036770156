import { ShoalError } from '../../base/index.ts'
import { canonicalHost } from '../upstream/index.ts'

/** The distribution spec leaves it to the client's 255 characters of host and name together; the name alone gets them here. */
const MAX_NAME = 255
const COMPONENT = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$/
const TAG = /^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$/
const LABEL = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/

/** True for a repository's name by the distribution spec's grammar. */
export function isName(name: string): boolean {
  return name.length <= MAX_NAME && name.split('/').every((component) => COMPONENT.test(component))
}

export function isTag(text: string): boolean {
  return TAG.test(text)
}

/** The host of the cluster's own repository. It has no upstream; its names begin with `local/`. */
export const LOCAL_HOST = 'local'

/** The host of the cluster's checkpoints, as OCI artifacts. */
export const CHECKPOINTS_HOST = 'checkpoints'

/** Hosts that are none: what they have is made or kept by this cluster. */
const PSEUDO_HOSTS = [LOCAL_HOST, CHECKPOINTS_HOST]

/** True for a first path component that names a host rather than a part of a repository, as docker tells them apart. */
export function looksLikeHost(component: string): boolean {
  return PSEUDO_HOSTS.includes(component) || component === 'localhost' || /[.:]/.test(component)
}

/** `HOST` or `HOST:PORT` in lower case, Docker Hub by its one name. @throws ShoalError NAME_INVALID */
export function parseHost(text: string): string {
  const host = canonicalHost(text)
  const match = /^(\[[0-9a-f:.]{2,45}\]|[a-z0-9.-]{1,253})(?::(\d{1,5}))?$/.exec(host)
  const name = match?.[1] ?? ''
  const port = match?.[2]
  const good =
    match !== null &&
    (name.startsWith('[') || name.split('.').every((label) => LABEL.test(label))) &&
    (port === undefined || (Number(port) > 0 && Number(port) < 65536))
  if (!good) throw new ShoalError('NAME_INVALID', `not a registry's host: ${text.slice(0, 80)}`)
  return host
}

/** Checked, and completed: Docker Hub's own images have `library/` before them. @throws ShoalError NAME_INVALID */
export function parseRepository(host: string, name: string): string {
  const whole = host === 'docker.io' && !name.includes('/') ? `library/${name}` : name
  if (!isName(whole)) throw new ShoalError('NAME_INVALID', `not a repository's name: ${name.slice(0, 80)}`)
  return whole
}
