import { type FSWatcher, watch } from 'node:fs'
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { type Digest, isDigest, isShoalError, type Log } from '../../base/index.ts'
import type { Manager } from '../../manager/index.ts'
import type { ChangeSource } from './changes.ts'
import { createDiscards } from './discards.ts'
import { createQueue } from './queue.ts'

/** Where containerd keeps what it pulled, below its root. */
const BLOBS = 'io.containerd.content.v1.content/blobs/sha256'

interface KnownBlob {
  digest: Digest
  complete: boolean
  pinned: boolean
  /** The file that it is borrowed from. */
  borrowedFrom: string | undefined
  /** Borrowing it again may move more of it. */
  mayMove: boolean
}

/** What the block store knows of blobs. */
interface KnownBlobs {
  blob(digest: Digest): Promise<KnownBlob | undefined>
  blobs(): AsyncIterable<KnownBlob>
}

export interface ContentOptions {
  /** containerd's root directory, which need not be there yet. */
  root: string
  manager: Pick<Manager, 'borrow' | 'giveBack'>
  store: KnownBlobs
  log: Log
  /** So long a file must have stood before Shoal relies on it; longer once containerd was seen to remove what it has unpacked. */
  standMs?: number
  discardMs?: number
  /** How long after a layer it is seen whether its manifest goes too. */
  settleMs?: number
  /** How often the whole directory is looked at, since events may be lost; and how often while there is nothing to watch. */
  lookMs?: number
  retryMs?: number
  /** Whoever knows of changes says so, too often or too seldom: the directory is looked at then, and once more after `soonMs`. */
  changes?: ChangeSource | undefined
  soonMs?: number
  /** How fast files are read, one at a time: an idle node is to stay idle. */
  bytesPerSecond?: number
}

export interface Content {
  /** What is borrowed stays so: reads verify it, and the next start looks again. */
  close(): Promise<void>
}

/** Nothing is served from containerd's files any more: what was borrowed in an earlier run is given back. */
export async function giveAllBack({
  manager,
  store,
}: Pick<ContentOptions, 'manager' | 'store'>): Promise<void> {
  for await (const { digest, borrowedFrom } of store.blobs()) {
    if (borrowedFrom !== undefined) await manager.giveBack(digest)
  }
}

/**
 * Follows containerd's content store: what is in it is borrowed (see Manager.borrow), what leaves it is given back. Only ever
 * reads. Files appear by rename, so one that is there is whole.
 */
export function followContent({
  root,
  manager,
  store,
  log,
  standMs = 5000,
  discardMs = 10 * 60_000,
  settleMs,
  lookMs = 60_000,
  retryMs = 5000,
  changes,
  soonMs = 3000,
  bytesPerSecond = 32 * 2 ** 20,
}: ContentOptions): Content {
  const dir = join(root, BLOBS)
  const closing = new AbortController()
  const { signal } = closing
  /** Files whose bytes are not what their name says, as they looked then: not read again while they look the same. */
  const refused = new Map<Digest, string>()
  const discards = createDiscards({ dir, youngMs: discardMs, settleMs, log })
  const queue = createQueue<Digest>({
    work: (digest) => attempt(`borrowing ${digest}`, take(digest)),
    signal,
  })
  let watcher: FSWatcher | undefined
  let watched: number | undefined
  let timer: NodeJS.Timeout | undefined
  let looking: Promise<void> = Promise.resolve()
  let busy = false
  let changed = false
  let lookedAt = 0

  const digestOf = (name: string): Digest | undefined => {
    const digest = `sha256:${name}`
    return isDigest(digest) ? digest : undefined
  }
  const pathOf = (digest: Digest): string => join(dir, digest.slice('sha256:'.length))

  /** Undefined when there is no such file; a file's print otherwise, and when it has stood long enough. */
  async function seen(digest: Digest): Promise<{ print: string; due: number } | undefined> {
    const stats = await stat(pathOf(digest)).catch(() => undefined)
    if (!stats?.isFile()) return undefined
    const now = Date.now()
    const { ino, size, ctimeMs } = stats
    return {
      print: `${ino}.${size}.${ctimeMs}`,
      due: Math.min(ctimeMs, now) + (discards.seen ? discardMs : standMs),
    }
  }

  async function gone(digest: Digest): Promise<void> {
    queue.delete(digest)
    refused.delete(digest)
    if ((await store.blob(digest))?.borrowedFrom === undefined) return
    log.debug({ digest }, 'containerd has removed content')
    discards.gone(digest)
    await manager.giveBack(digest)
  }

  /** Something happened to a file, or it was found: sooner or later it is borrowed, unless it is gone. */
  async function check(digest: Digest): Promise<void> {
    const file = await seen(digest)
    if (!file) return gone(digest)
    if (refused.get(digest) === file.print) return
    const blob = await store.blob(digest)
    if (blob?.pinned || (blob?.complete && blob.borrowedFrom === pathOf(digest) && !blob.mayMove)) return
    queue.add(digest, file.due)
  }

  async function take(digest: Digest): Promise<void> {
    const file = await seen(digest)
    if (!file) return gone(digest)
    // Before it lies there, as it may go in that very moment.
    if ((await store.blob(digest))?.borrowedFrom !== pathOf(digest)) discards.borrowed(digest)
    try {
      const stands = await manager.borrow(digest, pathOf(digest), { bytesPerSecond, signal })
      if (!stands && (await seen(digest))?.print === file.print) {
        refused.set(digest, file.print)
        log.warn(
          { path: pathOf(digest) },
          'a file of containerd cannot be read, or has other bytes than its name says',
        )
      }
    } catch (error) {
      // Somebody counts on our own blocks, perhaps for long, as a push does that waits for its copies: the next look sees.
      if (!isShoalError(error, 'BUSY')) throw error
      return
    }
    // It may have gone just as it was borrowed, and the event have come too early.
    await check(digest)
  }

  const attempt = (what: string, work: Promise<void>): Promise<void> =>
    work.catch((error: unknown) => {
      if (!signal.aborted) log.warn({ dir, err: error }, `${what} failed`)
    })

  async function look(): Promise<void> {
    await follow()
    const names = await readdir(dir).catch(() => [])
    const present = new Set(names.map(digestOf).filter((digest) => digest !== undefined))
    for await (const { digest, borrowedFrom } of store.blobs()) {
      if (signal.aborted) return
      if (borrowedFrom === undefined || borrowedFrom === pathOf(digest)) continue
      await manager.giveBack(digest)
    }
    for await (const { digest, borrowedFrom } of store.blobs()) {
      if (borrowedFrom !== undefined && !present.has(digest)) await gone(digest)
    }
    for (const digest of refused.keys()) if (!present.has(digest)) refused.delete(digest)
    for (const digest of present) {
      if (signal.aborted) return
      await check(digest)
    }
  }

  /** Watches the directory; anew when another one is in its place. */
  async function follow(): Promise<void> {
    const ino = (await stat(dir).catch(() => undefined))?.ino
    if (signal.aborted || (watcher && ino === watched)) return
    unfollow()
    if (ino === undefined) return
    try {
      const made = watch(dir, { persistent: false }, (_event, name) => {
        const digest = name === null ? undefined : digestOf(name)
        if (digest) void attempt('looking at a file of containerd', check(digest))
      })
      made.on('error', unfollow)
      watcher = made
      watched = ino
      log.info({ dir }, 'serving what containerd has from where it is')
    } catch (error) {
      log.warn({ dir, err: error }, 'the directory cannot be watched: it is looked at now and then')
    }
  }

  function unfollow(): void {
    watcher?.close()
    watcher = undefined
  }

  function again(): void {
    clearTimeout(timer)
    busy = true
    const told = changed
    changed = false
    looking = attempt('looking at what containerd has', look()).then(() => {
      busy = false
      if (signal.aborted) return
      // What containerd tells of may be done a moment later only.
      const often = watcher ? lookMs : retryMs
      timer = setTimeout(again, told || changed ? soonMs : often)
      timer.unref()
      lookedAt = Date.now()
    })
  }

  function hurry(): void {
    changed = true
    if (busy || signal.aborted) return
    clearTimeout(timer)
    timer = setTimeout(again, Math.max(0, lookedAt + soonMs - Date.now()))
    timer.unref()
  }

  again()
  const source = changes?.({ changed: hurry, discards: () => discards.know() })

  return {
    async close() {
      closing.abort()
      clearTimeout(timer)
      unfollow()
      discards.close()
      await Promise.all([source?.close(), looking, queue.idle()])
    },
  }
}
