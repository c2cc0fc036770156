import { type Log, ShoalError } from '../../../base/index.ts'
import type { AppRecord, Apps } from './apps.ts'
import type { Copying } from './copying.ts'
import type { Ends } from './ends.ts'
import type { Lifecycle } from './lifecycle.ts'
import type { Up } from './up.ts'
import type { View } from './view.ts'

/** Applications that are to be gone. */
export interface Finishing {
  /** Removes what there is of it, then its record; who asks in the middle waits for the same. @throws ABORTED */
  finish(record: AppRecord, signal: AbortSignal): Promise<void>
  /** Resolves when no removal is under way. */
  idle(): Promise<void>
}

export function createFinishing(deps: {
  apps: Apps
  copying: Copying
  lifecycle: Lifecycle
  ends: Ends
  up: () => Up
  view: View
  /** The node is being stopped. */
  closing: AbortSignal
  log: Log
}): Finishing {
  const { apps, copying, lifecycle, ends, up, closing, log } = deps
  const { imagesOf } = deps.view
  const finishing = new Map<string, Promise<void>>()

  async function finish(record: AppRecord, signal: AbortSignal): Promise<void> {
    let run = finishing.get(record.id)
    if (run === undefined) {
      run = (async () => {
        await up().remove(record, closing)
        await lifecycle.remove(record, closing)
        ends.forget(record.id)
        await apps.delete(record.id)
        for (const name of imagesOf(record)) {
          if (![...apps.all()].some((other) => imagesOf(other).includes(name))) {
            copying
              .release(name)
              .catch((error) => log.warn({ err: error, image: name }, 'an image stays stored'))
          }
        }
      })().finally(() => finishing.delete(record.id))
      finishing.set(record.id, run)
      run.catch(() => {})
    }
    await Promise.race([
      run,
      new Promise<never>((_, reject) => {
        const give = () => reject(new ShoalError('ABORTED', 'it is being removed still'))
        if (signal.aborted) give()
        signal.addEventListener('abort', give, { once: true })
      }),
    ])
  }

  return {
    finish,
    async idle() {
      await Promise.allSettled(finishing.values())
    },
  }
}
