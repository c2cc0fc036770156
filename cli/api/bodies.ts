import { ShoalError } from '../../base/index.ts'

/** Bytes a second of a scrub whose asker says no rate: somebody waits for it, but pulls go on. */
const SCRUB_RATE = 50e6

/** The members of a body, none for no body. @throws USAGE when there are others than `known` */
function members(body: unknown, known: readonly string[]): Record<string, unknown> {
  if (body === undefined) return {}
  if (typeof body !== 'object' || body === null || Array.isArray(body)) {
    throw new ShoalError('USAGE', 'the body must be an object')
  }
  const stray = Object.keys(body).find((name) => !known.includes(name))
  if (stray !== undefined) throw new ShoalError('USAGE', `unknown member: ${stray.slice(0, 80)}`)
  return body as Record<string, unknown>
}

/** An image's name, not yet taken apart. @throws NAME_INVALID */
export function imageName(reference: unknown): string {
  if (typeof reference !== 'string' || !/^[\x21-\x7e]{1,512}$/.test(reference)) {
    throw new ShoalError('NAME_INVALID', 'reference must be an image name, such as docker.io/library/redis:7')
  }
  return reference
}

export function pullRequest(body: unknown): { reference: string; platform?: string } {
  const given = members(body, ['reference', 'platform'])
  const reference = imageName(given.reference)
  const { platform } = given
  if (platform === undefined) return { reference }
  if (typeof platform !== 'string' || !/^[a-z0-9]+\/[a-z0-9]+(\/[a-z0-9.]+)?$/.test(platform)) {
    throw new ShoalError('USAGE', 'platform must be OS/ARCH or OS/ARCH/VARIANT, such as linux/arm64')
  }
  return { reference, platform }
}

export function pinRequest(body: unknown): string {
  return imageName(members(body, ['reference']).reference)
}

export function gcRequest(body: unknown): { all: boolean } {
  const { all = false } = members(body, ['all'])
  if (typeof all !== 'boolean') throw new ShoalError('USAGE', 'all must be true or false')
  return { all }
}

export function scrubRequest(body: unknown): { bytesPerSecond: number } {
  const { bytesPerSecond = SCRUB_RATE } = members(body, ['bytesPerSecond'])
  if (typeof bytesPerSecond !== 'number' || !(bytesPerSecond >= 1)) {
    throw new ShoalError('USAGE', 'bytesPerSecond must be a number of at least 1')
  }
  return { bytesPerSecond }
}
