import type { Response } from 'express'
import { ShoalError } from '../../base/index.ts'
import type { PullWanted } from './pulls.ts'
import type { StoreWanted } from './storings.ts'

/** No site is larger than what can be asked for. */
const MAX_COPIES = 1024

/** Bytes a second of a scrub whose asker says no rate: somebody waits for it, but pulls go on. */
const SCRUB_RATE = 50e6

/** The members of a body, none for no body. @throws USAGE when there are others than `known` */
export function members(body: unknown, known: readonly string[]): Record<string, unknown> {
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

/** `word` stands for more than one platform. */
function platformOf(platform: unknown, word?: string): { platform?: string } {
  if (platform === undefined) return {}
  if (platform === word && word !== undefined) return { platform: word }
  if (typeof platform !== 'string' || !/^[a-z0-9]+\/[a-z0-9]+(\/[a-z0-9.]+)?$/.test(platform)) {
    throw new ShoalError('USAGE', 'platform must be OS/ARCH or OS/ARCH/VARIANT, such as linux/arm64')
  }
  return { platform }
}

export function pullRequest(body: unknown): PullWanted {
  const { reference, platform } = members(body, ['reference', 'platform'])
  return { reference: imageName(reference), ...platformOf(platform) }
}

export function storeRequest(body: unknown): StoreWanted {
  const { reference, copies, platform } = members(body, ['reference', 'copies', 'platform'])
  if (!Number.isInteger(copies) || (copies as number) < 1 || (copies as number) > MAX_COPIES) {
    throw new ShoalError('USAGE', `copies must be a number from 1 to ${MAX_COPIES}`)
  }
  return { reference: imageName(reference), copies: copies as number, ...platformOf(platform, 'all') }
}

export function repairRequest(body: unknown): { now: boolean } {
  const { now = false } = members(body, ['now'])
  if (typeof now !== 'boolean') throw new ShoalError('USAGE', 'now must be true or false')
  return { now }
}

export function pinRequest(body: unknown): string {
  return imageName(members(body, ['reference']).reference)
}

export function mecTokenRequest(body: unknown): { ue: string; expiresInMs?: number } {
  const { ue, expiresInMs } = members(body, ['ue', 'expiresInMs'])
  if (typeof ue !== 'string') throw new ShoalError('USAGE', 'ue must be the name of a device')
  if (expiresInMs === undefined) return { ue }
  if (typeof expiresInMs !== 'number' || !(expiresInMs > 0)) {
    throw new ShoalError('USAGE', 'expiresInMs must be a number of more than 0')
  }
  return { ue, expiresInMs }
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

/** A signal that fires when the client goes away. */
export function gone(res: Response): AbortSignal {
  const abort = new AbortController()
  res.on('close', () => abort.abort(new ShoalError('ABORTED', 'the client went away')))
  return abort.signal
}
