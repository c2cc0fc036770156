import { realpath, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { ClassicLevel } from 'classic-level'
import { type Log, ShoalError } from '../base/index.ts'
import { isNoSpace, noSpace } from './faults.ts'
import type { Spare } from './spare.ts'

export type Op = { type: 'put'; key: string; value: string } | { type: 'del'; key: string }

export interface Range {
  /** First key of the range, left out itself with `after`. */
  from: string
  after?: boolean
  /** First key beyond it. */
  to: string
  limit?: number
}

/** The index: a LevelDB that survives a full disk. Keys and values are text. */
export interface KeyIndex {
  get(key: string): Promise<string | undefined>
  has(key: string): Promise<boolean>
  hasMany(keys: string[]): Promise<boolean[]>
  /** Entries in key order, as they are at one moment. */
  entries(range: Range): Promise<[key: string, value: string][]>
  keys(range: Range): Promise<string[]>
  /**
   * All of the operations or none. One write at a time: the caller sees to that. What the error isNoSpace is for left
   * nothing behind, however often the index has to be opened anew before it works again. With `sync` it is on the disk itself
   * when this resolves, with all writes before it; without, the system has it, which outlives the process but not a power cut.
   */
  write(ops: Op[], options?: { sync?: boolean }): Promise<void>
  close(): Promise<void>
}

// LevelDB's own default is made for servers. This is enough here, and bounds its memory and the tables it maps.
const LEVEL_OPTIONS = {
  cacheSize: 2 * 1024 * 1024,
  writeBufferSize: 1024 * 1024,
  maxFileSize: 1024 * 1024,
  maxOpenFiles: 74,
}
/** Room that opening it may need: the table written out of the log, and a little. */
const REOPEN_BYTES = 2 * 1024 * 1024
/**
 * Entries that an iterator fetches per trip through the thread pool. Not more, because classic-level keeps the native copy
 * of an iterator's last trip until the garbage collector finds the iterator: at 1000, some 300 KB each that nobody counts.
 */
const TRIP = 128
const TRIP_BYTES = 64 * 1024

type Level = ClassicLevel<string, string>

/**
 * Directories whose index this process has open. Kept for the whole process, as the lock is: LevelDB's is a POSIX record
 * lock, which a process loses when it closes any descriptor of the file, and a second opening does that on being refused.
 */
const openHere = new Set<string>()

/**
 * Opens `index/` in `dir`; its lock is the store's lock.
 * @param repair let LevelDB save what it can of a damaged index first: batches may be there in part only afterwards
 * @throws STORE_LOCKED | what isNoSpace | what isDamage | any other error of LevelDB
 */
export async function openKeyIndex({
  dir,
  spare,
  log,
  repair,
}: {
  dir: string
  spare: Spare
  log: Log
  repair: boolean
}): Promise<KeyIndex> {
  const location = join(await realpath(dir), 'index')
  if (openHere.has(location)) throw locked(dir)
  openHere.add(location)
  let level = await openFirst().catch((error: unknown) => {
    openHere.delete(location)
    throw error
  })
  /** Users of `level` at work, and the gate that holds back new ones while it is opened anew. */
  let users = 0
  let onIdle: (() => void) | undefined
  let gate: Promise<void> | undefined
  /**
   * Set by a write that failed for want of room. LevelDB's log may then hold a torn record, behind which nothing would be
   * found after a restart, or its compaction has stopped for good: both ask for opening it anew before another write.
   */
  let broken = false
  /** Puts back what the failed write touched: its record may have got into the log all the same. */
  let undo: Op[] = []

  async function openLevel(): Promise<Level> {
    const opened: Level = new ClassicLevel(location)
    await opened.open(LEVEL_OPTIONS)
    return opened
  }

  async function openFirst(): Promise<Level> {
    try {
      if (repair) await ClassicLevel.repair(location)
      return await openLevel()
    } catch (error) {
      if (levelError(error).code === 'LEVEL_LOCKED') throw locked(dir, error)
      if (!isNoSpace(error)) throw error
      // The lock was ours, if only for a moment: so is the spare file.
      await spare.release()
      return openLevel()
    }
  }

  async function using<T>(work: (level: Level) => Promise<T>): Promise<T> {
    while (gate) await gate
    if (level.status !== 'open') await reopen()
    users++
    try {
      return await work(level)
    } finally {
      users--
      if (users === 0) onIdle?.()
    }
  }

  function reopen(): Promise<void> {
    const work = (async () => {
      if (users > 0) {
        await new Promise<void>((resolve) => {
          onIdle = resolve
        })
        onIdle = undefined
      }
      if (level.status === 'open') await level.close()
      level = await openLevel()
    })()
    gate = work.then(
      () => {},
      () => {},
    )
    return work.finally(() => {
      gate = undefined
    })
  }

  async function recover(): Promise<void> {
    await spare.release()
    const { bavail, bsize } = await statfs(dir)
    // Closing it now would take the reads away too, and nothing is lost by waiting: what was acknowledged is in the log.
    if (bavail * bsize < REOPEN_BYTES) throw noSpace('no room on the disk for the index')
    log.info({ dir }, 'opening the index anew after a full disk')
    await reopen()
    if (undo.length > 0) await level.batch(undo)
    undo = []
    broken = false
  }

  function attempt(ops: Op[], sync: boolean): Promise<void> {
    return using(async (open) => {
      try {
        await open.batch(ops, { sync })
      } catch (error) {
        if (isNoSpace(error)) {
          broken = true
          undo = ops.map(({ key }) => {
            const value = open.getSync(key)
            return value === undefined ? { type: 'del', key } : { type: 'put', key, value }
          })
        }
        throw error
      }
    })
  }

  return {
    async get(key) {
      // Synchronous inside: a look into memory tables and cached pages is shorter than the way to the thread pool.
      return using(async (open) => open.getSync(key))
    },
    has: (key) => using(async (open) => open.getSync(key) !== undefined),
    hasMany: (keys) => using((open) => open.hasMany(keys)),
    entries: (range) => using((open) => drain(open.iterator(levelRange(range)), range.limit)),
    keys: (range) => using((open) => drain(open.keys(levelRange(range)), range.limit)),
    async write(ops, { sync = false } = {}) {
      if (ops.length === 0) return
      if (broken) await recover()
      try {
        await attempt(ops, sync)
      } catch (error) {
        if (!isNoSpace(error)) throw error
        await recover()
        await attempt(ops, sync)
      }
    },
    async close() {
      while (gate) await gate
      try {
        if (level.status === 'open') await level.close()
      } finally {
        openHere.delete(location)
      }
    },
  }
}

interface LevelIterator<T> {
  nextv(size: number): Promise<T[]>
  close(): Promise<void>
}

async function drain<T>(iterator: LevelIterator<T>, limit = TRIP): Promise<T[]> {
  const items: T[] = []
  try {
    for (;;) {
      const some = await iterator.nextv(Math.min(limit, TRIP))
      if (some.length === 0) return items
      items.push(...some)
    }
  } finally {
    await iterator.close()
  }
}

function levelRange({ from, after, to, limit }: Range): {
  gt?: string
  gte?: string
  lt: string
  limit: number
  highWaterMarkBytes: number
} {
  return {
    ...(after ? { gt: from } : { gte: from }),
    lt: to,
    limit: limit ?? -1,
    highWaterMarkBytes: TRIP_BYTES,
  }
}

function locked(dir: string, cause?: unknown): ShoalError {
  return new ShoalError('STORE_LOCKED', `another daemon uses the block store in ${dir}`, { cause })
}

/** True when LevelDB's files are not what they should be, so that repairing them may help; with them, data may go. */
export function isDamage(error: unknown): boolean {
  const { code, message } = levelError(error)
  if (code === 'LEVEL_CORRUPTION') return true
  return code === 'LEVEL_IO_ERROR' && /no such file|invalid argument|input\/output error/i.test(message)
}

/** What LevelDB said: abstract-level wraps it when it was said on opening. */
function levelError(error: unknown): { code: string | undefined; message: string } {
  const { code, message, cause } = error as Error & { code?: string; cause?: Error & { code?: string } }
  return cause?.code?.startsWith('LEVEL_') ? { code: cause.code, message: cause.message } : { code, message }
}
