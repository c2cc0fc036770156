import type { Log } from '../../base/index.ts'
import { isShoalError } from '../../base/index.ts'
import type { Records } from '../../blockstore/index.ts'
import type { Runtime, RuntimeName } from '../runtime/types.ts'

/** So long undoing something may take when what it was for has failed or was given up. */
const UNDO_MS = 60_000

/** What is half done on this machine's runtimes, written down before it is begun: a daemon that was killed sets it right when it comes back. */
export interface Freezing {
  /** Freezes the container; resolves to what lets it go on as it was. */
  freeze(runtime: Runtime, id: string, signal: AbortSignal): Promise<() => Promise<void>>
  /** Notes that a container of this name is being made, which will bear the label; resolves to what forgets it. */
  making(runtime: RuntimeName, name: string, label: string): Promise<() => Promise<void>>
  /** Sets right what the last daemon has left. */
  recover(signal: AbortSignal): Promise<void>
}

/** On a container that was restored: NAME:VERSION of the checkpoint. */
export const LABEL = 'shoal.checkpoint'

export interface Unfinished {
  runtime: RuntimeName
  /** ID of the one that is frozen, name of the one that is made. */
  id: string
  what: 'frozen' | 'made'
  label?: string
}

export function createFreezing(deps: {
  records: Records<Unfinished>
  runtime: (name: RuntimeName) => Promise<Runtime>
  log: Log
}): Freezing {
  const { records, log } = deps
  const keyOf = ({ runtime, id, what }: Unfinished): string => `${what}/${runtime}/${id}`

  async function note(entry: Unfinished): Promise<() => Promise<void>> {
    await records.put(keyOf(entry), entry)
    return () => records.delete(keyOf(entry))
  }

  return {
    async freeze(runtime, id, signal) {
      const forget = await note({ runtime: runtime.name, id, what: 'frozen' })
      const goOn = async (): Promise<void> => {
        await runtime.resume(id, AbortSignal.timeout(UNDO_MS)).catch((error) => {
          if (!isShoalError(error, 'NOT_FOUND')) throw error
        })
        await forget()
      }
      try {
        await runtime.pause(id, signal)
      } catch (error) {
        await goOn().catch((failure) =>
          log.error({ id, error: String(failure) }, 'a container may still be frozen'),
        )
        throw error
      }
      return goOn
    },
    making: (runtime, name, label) => note({ runtime, id: name, what: 'made', label }),
    async recover(signal) {
      for (const [key, { runtime, id, what, label }] of await Array.fromAsync(records.entries())) {
        try {
          const driver = await deps.runtime(runtime)
          if (what === 'frozen') await driver.resume(id, signal)
          else {
            const found = await driver.inspect(id, signal)
            // One that runs was started: that nobody was told is no reason to take it away.
            const left = found.name === id && found.labels[LABEL] === label && found.state !== 'running'
            if (left) await (await driver.prepared(found.id, signal)).discard(signal)
          }
          log.warn({ runtime, id, what }, 'set right what the last daemon had left half done')
        } catch (error) {
          if (!isShoalError(error, 'NOT_FOUND')) {
            log.error(
              { runtime, id, what, error: String(error) },
              'what the last daemon left is not set right: it is tried at the next start',
            )
            continue
          }
        }
        await records.delete(key)
      }
    },
  }
}
