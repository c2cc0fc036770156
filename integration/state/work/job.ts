import { closeSync, constants, openSync, readSync, writeSync } from 'node:fs'
import { setImmediate } from 'node:timers/promises'
import type { Digest } from '../../../base/index.ts'
import { ShoalError } from '../../../base/index.ts'
import { unpackRecipe } from '../form/frames.ts'
import { LIMITS } from '../form/limits.ts'
import { decodeRecipe, type Recipe } from '../form/recipe.ts'
import type { Seal } from '../types.ts'

/** What a job can ask of the daemon that it works for. */
export interface Job {
  /** What it reads and makes is sealed with this. */
  readonly seal: Seal | undefined
  /** Brings a blob here, whole and verified; resolves to its size. */
  fetch(blob: { digest: Digest; size?: number }): Promise<number>
  /** A fetched blob's bytes; a chunk is valid until the next one is asked for. */
  read(digest: Digest, start: number, end: number): AsyncGenerator<Uint8Array>
  /** Sets bytes of a fetched blob aside, outside of this process's memory. 1 MiB at most. */
  load(digest: Digest, start: number, end: number): Promise<Part>
  call(name: string, body: unknown): Promise<unknown>
  /** Hands over bytes of the result; resolves when they are free again. 1 MiB at most. */
  give(bytes: Uint8Array): Promise<void>
  /** Lets others have a turn. @throws ABORTED when nobody wants the result any more */
  turn(): Promise<void>
  /** The same, without a turn. */
  check(): void
  end(): void
}

/** Bytes of a blob that were set aside. */
export interface Part {
  /** Copies what is `at` in the blob. */
  copy(into: Uint8Array, at: number): void
  /** It is not needed any more. */
  drop(): void
}

const BUFFER = 2 ** 20

export interface JobBody {
  job: number
  seal: Seal | undefined
  /** Path of the file by which bytes come and go. */
  spool: string
}

/** How a job reaches the daemon. */
export interface Daemon {
  call(name: string, body: unknown): Promise<unknown>
  /** Whether nobody wants the job's result any more. */
  isStopped(job: number): boolean
}

/** Buffers for chunks, used again. */
const idle: Buffer[] = []
const MOST_IDLE = 8

export function createJob(body: JobBody, daemon: Daemon): Job {
  let streams = 0
  let spool: number | undefined
  const free: number[] = []
  let places = 0
  const ask = (name: string, request: unknown): Promise<unknown> =>
    daemon.call(`${body.job}:${name}`, request)
  const check = (): void => {
    if (daemon.isStopped(body.job)) throw new ShoalError('ABORTED', 'it is not wanted any more')
  }
  const file = (): number => {
    spool ??= openSync(body.spool, constants.O_RDWR | constants.O_CREAT, 0o600)
    return spool
  }
  return {
    seal: body.seal,
    call: ask,
    check,
    async turn() {
      check()
      await setImmediate()
    },
    fetch: async (blob) => (await ask('fetch', blob)) as number,
    async *read(digest, start, end) {
      if (start >= end) return
      const stream = streams++
      // One is filled while the other is used.
      const buffers = [take(), take()] as const
      const at = [0, 1].map(() => free.pop() ?? BUFFER * places++)
      let turn = 0
      let asked = start
      // Each answer is waited for as long as the machine is busy, so none is asked for that is not needed.
      const fill = async (): Promise<Buffer | undefined> => {
        if (asked >= end) return undefined
        const place = at[turn % 2] as number
        const buffer = buffers[turn++ % 2] as Buffer
        const length = (await ask('pull', { stream, digest, start, end, at: place })) as number
        if (length === 0) throw new ShoalError('INTERNAL', `${digest} ended early`)
        if (readSync(file(), buffer, 0, length, place) !== length)
          throw new ShoalError('INTERNAL', 'a chunk is not there')
        asked += length
        return buffer.subarray(0, length)
      }
      let ahead = fill()
      ahead.catch(() => {})
      try {
        for (;;) {
          const bytes = await ahead
          check()
          if (!bytes) return
          ahead = fill()
          ahead.catch(() => {})
          yield bytes
        }
      } finally {
        await ahead.catch(() => {})
        ask('drop', { stream }).catch(() => {})
        free.push(...at)
        if (idle.length < MOST_IDLE) idle.push(...buffers)
      }
    },
    async load(digest, start, end) {
      const place = free.pop() ?? BUFFER * places++
      await ask('load', { digest, start, end, at: place })
      return {
        copy(into, at) {
          if (readSync(file(), into, 0, into.length, place + at - start) !== into.length)
            throw new ShoalError('INTERNAL', 'a part is not there')
        },
        drop: () => void free.push(place),
      }
    },
    async give(bytes) {
      const place = free.pop() ?? BUFFER * places++
      for (let done = 0; done < bytes.length; )
        done += writeSync(file(), bytes, done, bytes.length - done, place + done)
      await ask('chunk', { at: place, length: bytes.length })
      free.push(place)
    },
    end() {
      if (spool !== undefined) closeSync(spool)
      spool = undefined
    },
  }
}

function take(): Buffer {
  return idle.pop() ?? Buffer.allocUnsafeSlow(BUFFER)
}

/** Reads a recipe blob, and checks it. @throws PROTOCOL | DENIED */
export async function readRecipe(job: Job, digest: Digest): Promise<{ recipe: Recipe; size: number }> {
  const size = await job.fetch({ digest })
  if (size > LIMITS.recipe) throw new ShoalError('PROTOCOL', 'the recipe is not valid: too long')
  const packed = Buffer.allocUnsafe(size)
  let at = 0
  for await (const chunk of job.read(digest, 0, size)) {
    packed.set(chunk, at)
    at += chunk.length
  }
  const recipe = decodeRecipe(unpackRecipe(packed, LIMITS.unpacked, job.seal?.key))
  if (recipe.seal !== job.seal?.id) throw new ShoalError('DENIED', 'the state is sealed with another key')
  return { recipe, size }
}
