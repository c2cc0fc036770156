import { type Digest, isDigest, ShoalError } from '../../base/index.ts'

/** A component of a repository's name by the OCI distribution spec: clients fetch a checkpoint as `checkpoints/NAME:VERSION`. */
const NAME = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$/
const MAX_NAME = 128

export interface CheckpointReference {
  name: string
  version: number | undefined
  digest: Digest | undefined
}

export function isName(text: string): boolean {
  return text.length <= MAX_NAME && NAME.test(text)
}

/** `NAME` (the newest), `NAME:VERSION` or `NAME@DIGEST` (of its OCI index). @throws NAME_INVALID */
export function parseCheckpointReference(text: string): CheckpointReference {
  const [, name = '', tail = ''] = /^([^:@]*)(.*)$/s.exec(text) ?? []
  const version = /^:(?:([1-9]\d{0,8})|latest)$/.exec(tail)
  const digest = tail.slice(1)
  if (isName(name)) {
    if (tail === '') return { name, version: undefined, digest: undefined }
    if (version)
      return { name, version: version[1] === undefined ? undefined : Number(version[1]), digest: undefined }
    if (tail.startsWith('@') && isDigest(digest)) return { name, version: undefined, digest }
  }
  throw new ShoalError(
    'NAME_INVALID',
    `not a checkpoint's name (NAME, NAME:VERSION, NAME@DIGEST): ${text.slice(0, 80)}`,
  )
}

/** The name of a container as one of a checkpoint: lower case, and a dash for what may not be in it. */
export function nameOf(container: string): string {
  const name = container
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-|-$/g, '')
    .slice(0, MAX_NAME)
    .replace(/-$/, '')
  if (!isName(name))
    throw new ShoalError('NAME_INVALID', `a checkpoint cannot be called after ${container}: give a name`)
  return name
}
