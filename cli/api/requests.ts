import type { Response } from 'express'
import { ShoalError } from '../../base/index.ts'
import type { PullWanted } from './pulls.ts'
import type { StoreWanted } from './storings.ts'

/** No site is larger than what can be asked for. */
const MAX_COPIES = 1024

/** The members of a body; `known` are all that it may have. */
function membersOf(body: unknown, known: string[]): Record<string, unknown> {
  if (typeof body !== 'object' || body === null || Array.isArray(body)) {
    throw new ShoalError('USAGE', `the body must be an object with ${known.join(', ')}`)
  }
  const stray = Object.keys(body).find((name) => !known.includes(name))
  if (stray !== undefined) throw new ShoalError('USAGE', `unknown member: ${stray.slice(0, 80)}`)
  return body as Record<string, unknown>
}

function referenceOf(reference: unknown): string {
  if (typeof reference !== 'string' || !/^[\x21-\x7e]{1,512}$/.test(reference)) {
    throw new ShoalError('NAME_INVALID', 'reference must be an image name, such as docker.io/library/redis:7')
  }
  return reference
}

function platformOf(platform: unknown, word?: string): { platform?: string } {
  if (platform === undefined) return {}
  if (platform === word && word !== undefined) return { platform: word }
  if (typeof platform !== 'string' || !/^[a-z0-9]+\/[a-z0-9]+(\/[a-z0-9.]+)?$/.test(platform)) {
    throw new ShoalError('USAGE', 'platform must be OS/ARCH or OS/ARCH/VARIANT, such as linux/arm64')
  }
  return { platform }
}

/** @throws USAGE | NAME_INVALID */
export function pullRequest(body: unknown): PullWanted {
  const { reference, platform } = membersOf(body, ['reference', 'platform'])
  return { reference: referenceOf(reference), ...platformOf(platform) }
}

/** @throws USAGE | NAME_INVALID */
export function storeRequest(body: unknown): StoreWanted {
  const { reference, copies, platform } = membersOf(body, ['reference', 'copies', 'platform'])
  if (!Number.isInteger(copies) || (copies as number) < 1 || (copies as number) > MAX_COPIES) {
    throw new ShoalError('USAGE', `copies must be a number from 1 to ${MAX_COPIES}`)
  }
  return { reference: referenceOf(reference), copies: copies as number, ...platformOf(platform, 'all') }
}

/** @throws USAGE */
export function repairRequest(body: unknown): { now: boolean } {
  const { now = false } = membersOf(body ?? {}, ['now'])
  if (typeof now !== 'boolean') throw new ShoalError('USAGE', 'now must be true or false')
  return { now }
}

/** A signal that fires when the client goes away. */
export function gone(res: Response): AbortSignal {
  const abort = new AbortController()
  res.on('close', () => abort.abort(new ShoalError('ABORTED', 'the client went away')))
  return abort.signal
}
