import { createHash, type Hash, randomUUID } from 'node:crypto'
import { type FileHandle, mkdir, open, readdir, rm, statfs, truncate } from 'node:fs/promises'
import { join } from 'node:path'
import { type Digest, errnoOf, hasherFor, type Log, ShoalError } from '../../base/index.ts'
import { refusal } from '../registry/failure.ts'

/** One that did nothing for so long is gone. */
const EXPIRE_MS = 15 * 60_000
/** One that did nothing for so long gives way to a new one when there are too many. */
const IDLE_MS = 60_000
const SWEEP_MS = 30_000
/** So much of the disk is left to others. */
const RESERVE = 256 * 2 ** 20
/** Free space is looked at whenever so much more has come. */
const LOOK_EVERY = 16 * 2 ** 20
const READ_BYTES = 256 * 2 ** 10

/** A blob on its way in: a file until its digest is known. */
export interface Upload {
  readonly id: string
  /** The repository that it was begun in. */
  readonly repository: string
  /** Bytes that are here. */
  readonly size: number
  /**
   * Adds a body. What came before a failure stays, so that the client can go on from there; except where `length` is given and
   * other than what came, then none of it does.
   * @throws what the body throws, and answers of the spec
   */
  add(body: AsyncIterable<Uint8Array>, length?: number): Promise<void>
  /**
   * Hands the bytes over, if they have the digest, and ends the upload in any case. @throws DIGEST_INVALID | what `take` throws
   */
  finish(digest: Digest, take: (read: () => AsyncIterable<Uint8Array>) => Promise<void>): Promise<void>
  /** Forgets it and its bytes. */
  remove(): Promise<void>
}

export interface Uploads {
  /** Empties the directory: what a run before this one left cannot be gone on with. */
  start(): Promise<void>
  /** @throws BUSY when too many are under way */
  begin(repository: string): Promise<Upload>
  /** @throws BLOB_UPLOAD_UNKNOWN */
  get(repository: string, id: string): Upload
  close(): Promise<void>
}

interface Session {
  id: string
  repository: string
  size: number
  hash: Hash
  busy: boolean
  usedAt: number
}

export function createUploads(parts: {
  dir: string
  /** Bytes that a blob may have. */
  maxBlob: number
  /** Uploads under way at the same time. */
  most: number
  log: Log
  now: () => number
  /** Bytes that the disk has left; for tests. */
  freeBytes?: () => Promise<number>
}): Uploads {
  const { dir, maxBlob, most, log, now } = parts
  const freeBytes = parts.freeBytes ?? (async () => statfs(dir).then(({ bavail, bsize }) => bavail * bsize))
  const sessions = new Map<string, Session>()
  const fileOf = ({ id }: Session): string => join(dir, id)
  const timer = setInterval(() => void expire(EXPIRE_MS), SWEEP_MS).unref()

  async function remove(session: Session): Promise<void> {
    sessions.delete(session.id)
    await rm(fileOf(session), { force: true }).catch((error: unknown) => {
      log.warn({ error: String(error) }, 'an upload could not be removed')
    })
  }

  async function expire(idleMs: number): Promise<void> {
    for (const session of sessions.values()) {
      if (!session.busy && now() - session.usedAt >= idleMs) await remove(session)
    }
  }

  /** @throws 507 */
  async function wantRoom(bytes: number): Promise<void> {
    if ((await freeBytes()) >= bytes + RESERVE) return
    throw refusal(507, 'UNAVAILABLE', 'the disk of this node has no room for the upload')
  }

  async function write(session: Session, file: FileHandle, body: AsyncIterable<Uint8Array>): Promise<void> {
    let looked = session.size
    for await (const chunk of body) {
      if (!sessions.has(session.id)) throw gone()
      if (session.size + chunk.byteLength > maxBlob) throw tooLarge(maxBlob)
      if (session.size + chunk.byteLength - looked >= LOOK_EVERY) {
        looked = session.size
        await wantRoom(LOOK_EVERY)
      }
      await file.writeFile(chunk)
      session.hash.update(chunk)
      session.size += chunk.byteLength
    }
  }

  async function add(session: Session, body: AsyncIterable<Uint8Array>, length?: number): Promise<void> {
    if (session.size + (length ?? 0) > maxBlob) {
      await remove(session)
      throw tooLarge(maxBlob)
    }
    const before = { size: session.size, hash: session.hash.copy() }
    try {
      await wantRoom(length ?? 0)
      const file = await open(fileOf(session), 'a')
      try {
        await write(session, file, body)
      } finally {
        await file.close()
      }
    } catch (error) {
      const full = errnoOf(error) === 'ENOSPC' || errnoOf(error) === 'EDQUOT'
      if (full) throw refusal(507, 'UNAVAILABLE', 'the disk of this node is full')
      throw error
    } finally {
      // A write that failed half-way left bytes that are not counted.
      if (sessions.has(session.id)) await truncate(fileOf(session), session.size).catch(() => {})
    }
    const came = session.size - before.size
    if (length === undefined || came === length) return
    Object.assign(session, before)
    await truncate(fileOf(session), session.size)
    throw refusal(400, 'SIZE_INVALID', `${length} bytes were announced, ${came} came`)
  }

  /** One request at a time works on a session. */
  async function alone<T>(session: Session, work: () => Promise<T>): Promise<T> {
    if (!sessions.has(session.id)) throw gone()
    if (session.busy) {
      throw refusal(409, 'BLOB_UPLOAD_INVALID', 'another request is working on this upload')
    }
    session.busy = true
    try {
      return await work()
    } catch (error) {
      // What can never become a blob, or has no room, does not lie about till it expires.
      const { answer } = (error as Partial<ShoalError>).details ?? {}
      const status = (answer as { status?: number } | undefined)?.status
      if (status === 413 || status === 507) await remove(session)
      throw error
    } finally {
      session.busy = false
      session.usedAt = now()
      // Cancelled meanwhile: what was written since goes, too.
      if (!sessions.has(session.id)) await remove(session)
    }
  }

  /** A chunk is valid until the next one is asked for. */
  async function* read(session: Session): AsyncGenerator<Uint8Array> {
    if (session.size === 0) return
    const buffer = Buffer.allocUnsafeSlow(READ_BYTES)
    const file = await open(fileOf(session), 'r')
    try {
      for (;;) {
        const { bytesRead } = await file.read(buffer, 0, READ_BYTES)
        if (bytesRead === 0) return
        yield buffer.subarray(0, bytesRead)
      }
    } finally {
      await file.close()
    }
  }

  /** The hash of sha256 was made on the way; sha512 is rare enough to read the bytes again. */
  async function matches(session: Session, digest: Digest): Promise<boolean> {
    if (digest.startsWith('sha256:')) return digest === `sha256:${session.hash.copy().digest('hex')}`
    const hash = hasherFor(digest)
    for await (const chunk of read(session)) hash.update(chunk)
    return digest === `sha512:${hash.digest('hex')}`
  }

  function uploadOf(session: Session): Upload {
    return {
      id: session.id,
      repository: session.repository,
      get size() {
        return session.size
      },
      add: (body, length) => alone(session, () => add(session, body, length)),
      finish: (digest, take) =>
        alone(session, async () => {
          try {
            if (!(await matches(session, digest))) {
              throw refusal(400, 'DIGEST_INVALID', `the bytes that came are not those of ${digest}`)
            }
            await take(() => read(session))
          } finally {
            await remove(session)
          }
        }),
      remove: () => remove(session),
    }
  }

  return {
    async start() {
      await mkdir(dir, { recursive: true, mode: 0o700 })
      for (const name of await readdir(dir)) await rm(join(dir, name), { recursive: true, force: true })
    },
    async begin(repository) {
      if (sessions.size >= most) await expire(IDLE_MS)
      if (sessions.size >= most) throw new ShoalError('BUSY', `${most} uploads are under way already`)
      const id = randomUUID()
      const session = { id, repository, size: 0, hash: createHash('sha256'), busy: false, usedAt: now() }
      sessions.set(id, session)
      return uploadOf(session)
    },
    get(repository, id) {
      const session = sessions.get(id)
      if (session?.repository === repository) return uploadOf(session)
      throw gone()
    },
    async close() {
      clearInterval(timer)
      for (const session of [...sessions.values()]) await remove(session)
    },
  }
}

function gone(): ShoalError {
  return refusal(404, 'BLOB_UPLOAD_UNKNOWN', 'no such upload: it never was, is done, or has expired')
}

function tooLarge(maxBlob: number): ShoalError {
  return refusal(413, 'SIZE_INVALID', `a blob of more than ${maxBlob} bytes is refused`)
}
