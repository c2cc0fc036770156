import { existsSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import type { Log } from '../../base/index.ts'

/** Calls `changed` when something may have changed, until it is closed. */
export type ChangeSource = (changed: () => void) => { close(): Promise<void> }

/** What comes and goes with images. A snapshot is committed when a layer has been unpacked, and may be discarded then. */
const FILTERS = ['topic~="^/(images|content)/"', 'topic=="/snapshot/commit"', 'topic=="/snapshot/remove"']

/**
 * containerd's events, from its socket. Whenever it goes and comes back the events of the time between are lost: that, too, is a
 * change. Until there is a socket, nothing is loaded.
 */
export function containerdChanges({
  address,
  log,
  retryMs = 5000,
}: {
  address: string
  log: Log
  retryMs?: number
}): ChangeSource {
  return (changed) => {
    const closing = new AbortController()
    const { signal } = closing

    async function listen(): Promise<void> {
      const { connectContainerd } = await import('../runtime/containerd/index.ts')
      const client = connectContainerd({ address })
      try {
        // Answered before anything else: what is asked for next is heard of.
        await client.version.version({}, { signal })
        const events = client.events.subscribe({ filters: FILTERS }, { signal })
        changed()
        log.debug({ address }, 'listening to what containerd tells')
        for await (const _ of events) changed()
      } finally {
        client.close()
      }
    }

    async function follow(): Promise<void> {
      while (!signal.aborted) {
        if (existsSync(address)) {
          await listen().catch((error: unknown) => {
            if (!signal.aborted) log.debug({ address, err: error }, 'containerd tells nothing')
          })
        }
        await delay(retryMs, undefined, { signal, ref: false }).catch(() => {})
      }
    }

    const following = follow()
    return {
      async close() {
        closing.abort()
        await following
      },
    }
  }
}
