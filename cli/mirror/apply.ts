import { rm, rmdir } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import {
  createJournalStore,
  type FileRecord,
  JOURNAL_HOME,
  type Journal,
  missingDirectories,
  readBelow,
  sha256,
  writeBelow,
} from './journal.ts'
import type { FileEdit, MirrorChange, MirrorOptions } from './types.ts'

/** Gives back the directories that are empty and were made by us, the innermost first. */
async function removeDirectories(root: string, made: string[]): Promise<void> {
  for (const dir of made.toReversed()) await rmdir(join(root, dir)).catch(() => {})
}

/**
 * What a file is based on: the original when it is as we left it, else what is there now without our part. An install over
 * an install therefore never takes our own edit for the original.
 */
function baseOf(
  edit: FileEdit,
  now: Buffer | undefined,
  record: FileRecord | undefined,
  original: Buffer | undefined,
): Buffer | undefined {
  if (now === undefined) return undefined
  const whole = record?.before === undefined || original !== undefined
  if (record && sha256(now) === record.after && whole) return original
  const bare = edit.remove(now.toString())
  if (bare === undefined) return undefined
  return bare === now.toString() ? now : Buffer.from(bare)
}

/**
 * Brings the edits about below `root`. Backups and the journal are on disk before the first file changes, so that an
 * install that dies half-way can be undone. Files of an earlier install that are not among the edits any more are undone.
 */
export async function install(
  root: string,
  runtime: string,
  options: MirrorOptions,
  edits: FileEdit[],
): Promise<MirrorChange[]> {
  const store = createJournalStore(root, runtime)
  const earlier = await store.load()
  const planned: { now: Buffer | undefined; next: Buffer; record: FileRecord; base: Buffer | undefined }[] =
    []
  const wanted = new Set(edits.map(({ path }) => path))
  const dropped = earlier?.files.filter(({ path }) => !wanted.has(path)) ?? []

  const made = new Set(earlier?.made)
  for (const dir of [JOURNAL_HOME, ...edits.map(({ path }) => dirname(path))]) {
    for (const missing of await missingDirectories(root, dir)) made.add(missing)
  }

  for (const edit of edits) {
    const now = await readBelow(root, edit.path)
    const old = earlier?.files.find(({ path }) => path === edit.path)
    const base = baseOf(edit, now, old, old?.before === undefined ? undefined : await store.backup(old))
    const next = Buffer.from(edit.add(base?.toString()))
    const record: FileRecord = {
      path: edit.path,
      ...(base === undefined ? {} : { before: sha256(base) }),
      after: sha256(next),
    }
    planned.push({ now, next, record, base })
  }
  // Every edit was found possible: only now is anything written.
  for (const { record, base } of planned) if (base !== undefined) await store.keep(record, base)
  const journal: Journal = {
    runtime,
    options,
    files: [...planned.map(({ record }) => record), ...dropped],
    made: [...made],
  }
  await store.save(journal)

  const changes: MirrorChange[] = []
  for (const { now, next, record } of planned) {
    const file = join(root, record.path)
    if (now?.equals(next)) {
      changes.push({ file, action: 'unchanged' })
      continue
    }
    await writeBelow(root, record.path, next)
    changes.push({ file, action: now === undefined ? 'created' : 'edited' })
  }
  for (const record of dropped) changes.push(await undo(root, record, await store.backup(record), undefined))
  if (dropped.length > 0) {
    await store.save({ ...journal, files: planned.map(({ record }) => record) })
    await removeDirectories(root, journal.made)
  }
  return changes
}

/** Undoes one file: restores it exactly if nobody touched it since, else takes only our part out. */
async function undo(
  root: string,
  record: FileRecord,
  original: Buffer | undefined,
  edit: FileEdit | undefined,
): Promise<MirrorChange> {
  const file = join(root, record.path)
  const now = await readBelow(root, record.path)
  if (now === undefined) return { file, action: 'gone' }
  const hash = sha256(now)
  if (hash === record.before) return { file, action: 'unchanged' }
  if (hash === record.after) {
    if (record.before === undefined) await rm(file)
    else if (original) await writeBelow(root, record.path, original)
    else return await takeOut(root, record.path, now, edit)
    return { file, action: 'restored' }
  }
  return await takeOut(root, record.path, now, edit)
}

async function takeOut(
  root: string,
  path: string,
  now: Buffer,
  edit: FileEdit | undefined,
): Promise<MirrorChange> {
  const file = join(root, path)
  const text = now.toString()
  const bare = edit === undefined ? text : edit.remove(text)
  if (bare === text) return { file, action: 'unchanged' }
  if (bare === undefined) await rm(file)
  else await writeBelow(root, path, bare)
  return { file, action: 'removed' }
}

/** What an install left behind below the root; undefined where there is none. */
export function readJournal(root: string, runtime: string): Promise<Journal | undefined> {
  return createJournalStore(root, runtime).load()
}

/** Undoes what is in the journal. The edits know how to take Shoal's part out of a file that was edited since. */
export async function uninstall(root: string, journal: Journal, edits: FileEdit[]): Promise<MirrorChange[]> {
  const store = createJournalStore(root, journal.runtime)
  const changes: MirrorChange[] = []
  for (const record of journal.files) {
    const edit = edits.find(({ path }) => path === record.path)
    changes.push(await undo(root, record, await store.backup(record), edit))
  }
  await store.discard()
  await removeDirectories(root, journal.made)
  return changes
}

/** Without a journal: takes Shoal's part out of the files, as far as it is there. */
export async function takeOutAll(root: string, edits: FileEdit[]): Promise<MirrorChange[]> {
  const changes: MirrorChange[] = []
  for (const edit of edits) {
    const now = await readBelow(root, edit.path)
    const change = now && (await takeOut(root, edit.path, now, edit))
    if (change && change.action !== 'unchanged') changes.push(change)
  }
  return changes
}
