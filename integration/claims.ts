import { ShoalError } from '../base/index.ts'
import type { RuntimeName } from './runtime/types.ts'

/** Takes a container for one purpose; resolves what gives it back. @throws BUSY while somebody else has it */
export type Claim = (runtime: RuntimeName, container: string, purpose: string) => () => void

/** Who freezes a container must be the only one: else one would thaw what another is just moving away. */
export function createClaims(): Claim {
  const claimed = new Map<string, string>()
  return (runtime, container, purpose) => {
    const key = `${runtime}/${container}`
    const by = claimed.get(key)
    if (by !== undefined) throw new ShoalError('BUSY', `${container} is being ${by}`)
    claimed.set(key, purpose)
    return () => claimed.delete(key)
  }
}
