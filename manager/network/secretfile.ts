import { randomUUID } from 'node:crypto'
import { chmod, link, mkdir, open, readFile, rm, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { errnoOf } from '../../base/index.ts'

/**
 * The file's content; where there is none it is made from `make`, mode 0600. Creation is atomic and happens once: of
 * several processes that start together all get the same content, and a crash leaves either no file or a whole one.
 * A file that others can read is made private.
 */
export async function readOrCreateSecret(
  path: string,
  make: () => string,
): Promise<{ content: Buffer; created: boolean }> {
  const existing = await readSecret(path)
  if (existing !== undefined) return { content: existing, created: false }
  const directory = dirname(path)
  await mkdir(directory, { recursive: true, mode: 0o700 })
  const draft = join(directory, `.${randomUUID()}.tmp`)
  const file = await open(draft, 'wx', 0o600)
  try {
    await file.writeFile(make())
    await file.sync()
  } finally {
    await file.close()
  }
  let created = true
  try {
    // Unlike rename, link never replaces what another process made in the meantime.
    await link(draft, path)
    await syncDirectory(directory)
  } catch (error) {
    if (errnoOf(error) !== 'EEXIST') throw error
    created = false
  } finally {
    await rm(draft, { force: true })
  }
  return { content: await readFile(path), created }
}

async function readSecret(path: string): Promise<Buffer | undefined> {
  try {
    const content = await readFile(path)
    const { mode } = await stat(path)
    // Best effort: the file may belong to somebody else, or be mounted read-only.
    if ((mode & 0o077) !== 0) await chmod(path, 0o600).catch(() => {})
    return content
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined
    throw error
  }
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r')
  try {
    await directory.sync()
  } finally {
    await directory.close()
  }
}
