import { randomBytes } from 'node:crypto'
import { link, mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { errnoOf, ShoalError } from '../base/index.ts'

/** The token in `file`, undefined where there is none that this user may read. */
export async function readToken(file: string): Promise<string | undefined> {
  try {
    const token = (await readFile(file, 'utf8')).trim()
    return token === '' ? undefined : token
  } catch (error) {
    if (['ENOENT', 'EACCES', 'ENOTDIR'].includes(errnoOf(error) ?? '')) return undefined
    throw new ShoalError('CONFIG', `cannot read the API token ${file}: ${errnoOf(error)}`, { cause: error })
  }
}

/**
 * The API's token; made (256 random bits, mode 0600) at the first start.
 * @throws ShoalError CONFIG when the file cannot be read or made, or is empty
 */
export async function ensureToken(file: string): Promise<string> {
  const draft = `${file}.${process.pid}.new`
  try {
    await mkdir(dirname(file), { recursive: true, mode: 0o750 })
    // Linked into place whole: a crash half-way must not leave an empty token behind.
    await writeFile(draft, `${randomBytes(32).toString('base64url')}\n`, { mode: 0o600, flush: true })
    await link(draft, file)
  } catch (error) {
    if (errnoOf(error) !== 'EEXIST') {
      throw new ShoalError('CONFIG', `cannot make the API token ${file}: ${errnoOf(error)}`, { cause: error })
    }
  } finally {
    await rm(draft, { force: true })
  }
  const token = await readToken(file)
  if (token === undefined) throw new ShoalError('CONFIG', `the API token ${file} is empty or unreadable`)
  return token
}
