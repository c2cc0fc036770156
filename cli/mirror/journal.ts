import { createHash } from 'node:crypto'
import { chmod, chown, mkdir, readFile, realpath, rename, rm, rmdir, stat, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { errnoOf, ShoalError } from '../../base/index.ts'
import type { MirrorOptions } from './types.ts'

/** What was done to one file, so that it can be undone. */
export interface FileRecord {
  /** Path below the root. */
  path: string
  /** SHA-256 of what was there before, in hex; absent: there was no file. */
  before?: string
  /** SHA-256 of what was written. */
  after: string
}

export interface Journal {
  runtime: string
  /** What the install was told, so that the uninstall knows what to look for. */
  options: MirrorOptions
  files: FileRecord[]
  /** Directories below the root that were not there before, the outermost first. */
  made: string[]
}

/** Where backups and journals are kept: next to configuration, since it must outlive the daemon's state. */
export const JOURNAL_HOME = '/etc/shoal/mirror'

export const sha256 = (bytes: Buffer | string): string => createHash('sha256').update(bytes).digest('hex')

/** Reads a file below the root, undefined where there is none. @throws ShoalError CONFIG */
export async function readBelow(root: string, path: string): Promise<Buffer | undefined> {
  try {
    return await readFile(join(root, path))
  } catch (cause) {
    const errno = errnoOf(cause)
    if (errno === 'ENOENT') return undefined
    throw new ShoalError('CONFIG', `cannot read ${join(root, path)}: ${errno}`, { cause })
  }
}

/** The directories up to `path` that are not there below the root, the outermost first. */
export async function missingDirectories(root: string, path: string): Promise<string[]> {
  const missing: string[] = []
  for (let dir = path; dir !== '/' && dir !== '.'; dir = dirname(dir)) {
    if (await stat(join(root, dir)).catch(() => undefined)) break
    missing.unshift(dir)
  }
  return missing
}

/** @throws ShoalError CONFIG */
async function makeDirectories(root: string, path: string): Promise<void> {
  try {
    await mkdir(join(root, path), { recursive: true, mode: 0o755 })
  } catch (cause) {
    throw new ShoalError('CONFIG', `cannot make ${join(root, path)}: ${errnoOf(cause)}`, { cause })
  }
}

/**
 * Replaces a file in one step, keeping mode and owner. A symbolic link stays: what it points to is replaced. Where the
 * file is a mount of its own (containers do that) it is rewritten in place.
 */
export async function writeBelow(
  root: string,
  path: string,
  bytes: Buffer | string,
  mode = 0o644,
): Promise<void> {
  const wanted = join(root, path)
  await makeDirectories(root, dirname(path))
  const target = await realpath(wanted).catch(() => wanted)
  const old = await stat(target).catch(() => undefined)
  const draft = `${target}.shoal-new`
  try {
    await writeFile(draft, bytes, { mode: old ? old.mode & 0o7777 : mode, flush: true })
    if (old) {
      await chmod(draft, old.mode & 0o7777)
      await chown(draft, old.uid, old.gid)
    }
    try {
      await rename(draft, target)
    } catch (error) {
      if (!['EBUSY', 'EXDEV'].includes(errnoOf(error) ?? '')) throw error
      await writeFile(target, bytes, { flush: true })
    }
  } catch (cause) {
    throw new ShoalError('CONFIG', `cannot write ${wanted}: ${errnoOf(cause)}`, { cause })
  } finally {
    await rm(draft, { force: true })
  }
}

/** The journal of one runtime and its backups, below a root. */
export interface JournalStore {
  load(): Promise<Journal | undefined>
  save(journal: Journal): Promise<void>
  backup(record: FileRecord): Promise<Buffer | undefined>
  keep(record: FileRecord, bytes: Buffer): Promise<void>
  /** Removes backups, journal and the directories that only they needed. */
  discard(): Promise<void>
}

export function createJournalStore(root: string, runtime: string): JournalStore {
  const dir = join(JOURNAL_HOME, runtime)
  const file = join(dir, 'journal.json')
  const backupName = (record: FileRecord): string => join(dir, `${sha256(record.path).slice(0, 16)}.before`)

  return {
    load: async () => {
      const bytes = await readBelow(root, file)
      if (!bytes) return undefined
      try {
        return JSON.parse(bytes.toString()) as Journal
      } catch (cause) {
        throw new ShoalError('CONFIG', `${join(root, file)} is damaged; the backups are beside it`, { cause })
      }
    },
    save: async (journal) => {
      await writeBelow(root, file, `${JSON.stringify(journal, null, 2)}\n`)
    },
    backup: (record) => readBelow(root, backupName(record)),
    keep: async (record, bytes) => {
      // A configuration may hold secrets: its copy is for root only.
      await writeBelow(root, backupName(record), bytes, 0o600)
    },
    discard: async () => {
      await rm(join(root, dir), { recursive: true, force: true })
      for (const parent of [JOURNAL_HOME, dirname(JOURNAL_HOME)])
        await rmdir(join(root, parent)).catch(() => {})
    },
  }
}
