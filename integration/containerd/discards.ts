import { readdir, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { Digest, Log } from '../../base/index.ts'

/** A removed image goes within this time, its manifests and its layers. */
const SETTLE_MS = 2000
/** Manifests are no larger, layers of which anything is gained are. */
const MANIFEST_BYTES = 256 * 1024

/**
 * Finds out whether containerd removes layers once they are unpacked (`discard_unpacked_layers`): it does when a layer goes a short
 * while after it came, and a manifest that names it stays. Its configuration need not be found and read for that.
 */
export interface Discards {
  /** Seen to happen in this run, or known otherwise. */
  readonly seen: boolean
  know(): void
  borrowed(digest: Digest): void
  gone(digest: Digest): void
  close(): void
}

/** @param youngMs what goes after this time has not gone because it was unpacked */
export function createDiscards({
  dir,
  youngMs,
  settleMs = SETTLE_MS,
  log,
}: {
  dir: string
  youngMs: number
  settleMs?: number | undefined
  log: Log
}): Discards {
  const young = new Map<Digest, number>()
  const suspects = new Set<Digest>()
  let seen = false
  let timer: NodeJS.Timeout | undefined

  async function isNamed(digests: readonly Digest[]): Promise<boolean> {
    for (const name of await readdir(dir)) {
      const path = join(dir, name)
      const stats = await stat(path).catch(() => undefined)
      if (!stats?.isFile() || stats.size > MANIFEST_BYTES) continue
      const text = await readFile(path, 'latin1').catch(() => '')
      if (digests.some((digest) => text.includes(digest))) return true
    }
    return false
  }

  async function judge(): Promise<void> {
    timer = undefined
    const digests = [...suspects]
    suspects.clear()
    if (seen || !(await isNamed(digests))) return
    know()
  }

  function know(): void {
    if (seen) return
    seen = true
    log.info({ dir }, 'containerd removes layers that it has unpacked: own copies are kept for longer')
  }

  return {
    get seen() {
      return seen
    },
    know,
    borrowed(digest) {
      const now = Date.now()
      for (const [other, at] of young) if (now - at > youngMs) young.delete(other)
      young.set(digest, now)
    },
    gone(digest) {
      const at = young.get(digest)
      young.delete(digest)
      if (seen || at === undefined || Date.now() - at > youngMs) return
      suspects.add(digest)
      timer ??= setTimeout(() => {
        judge().catch((error: unknown) => log.debug({ dir, err: error }, 'manifests could not be looked at'))
      }, settleMs)
      timer.unref()
    },
    close: () => clearTimeout(timer),
  }
}
