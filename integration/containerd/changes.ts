import { existsSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import type { Log } from '../../base/index.ts'
import type { ContainerdClient } from '../runtime/containerd/index.ts'

export interface ChangeListener {
  /** Something may have changed. */
  changed(): void
  /** It is known that containerd removes layers once they are unpacked. */
  discards(): void
}

/** Tells the listener until it is closed. */
export type ChangeSource = (listener: ChangeListener) => { close(): Promise<void> }

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
  return ({ changed, discards }) => {
    const closing = new AbortController()
    const { signal } = closing

    async function listen(): Promise<void> {
      const { connectContainerd } = await import('../runtime/containerd/index.ts')
      const client = connectContainerd({ address })
      try {
        // Answered before anything else: what is asked for next is heard of.
        await client.version.version({}, { signal })
        const events = client.events.subscribe({ filters: FILTERS }, { signal })
        if (await isDiscarding(client, signal)) discards()
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

/** What the kubelet's interface is set to; who does without it has no layers removed. */
async function isDiscarding(client: ContainerdClient, signal: AbortSignal): Promise<boolean> {
  try {
    const { info } = await client.cri.status({ verbose: true }, { signal })
    const config = JSON.parse(info.config ?? '{}') as { containerd?: { discardUnpackedLayers?: boolean } }
    return config.containerd?.discardUnpackedLayers === true
  } catch {
    // It is found out by what goes, then.
    return false
  }
}
