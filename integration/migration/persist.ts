import { ShoalError } from '../../base/index.ts'
import type { Parts } from './parts.ts'

const FIRST_MS = 200
const MOST_MS = 5000

/**
 * Does what has to be done, however often it fails: the way back is closed. Ends only with the daemon, whose successor takes it up.
 * @throws ABORTED when the daemon stops
 */
export async function untilDone<T>(
  { clock, log, signal }: Pick<Parts, 'clock' | 'log' | 'signal'>,
  what: string,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  for (let waitMs = FIRST_MS; ; waitMs = Math.min(waitMs * 2, MOST_MS)) {
    if (signal.aborted) throw new ShoalError('ABORTED', 'the daemon is stopping')
    try {
      return await work(signal)
    } catch (error) {
      if (!signal.aborted) log.warn({ error: String(error) }, `cannot ${what} yet`)
      await clock.sleep(waitMs, signal)
    }
  }
}
