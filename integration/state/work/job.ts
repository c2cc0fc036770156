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
  call(name: string, body: unknown): Promise<unknown>
  /** Lets others have a turn. @throws ABORTED when nobody wants the result any more */
  turn(): Promise<void>
  /** The same, without a turn. */
  check(): void
}

const BUFFER = 2 ** 20

export interface JobBody {
  job: number
  seal: Seal | undefined
}

/** How a job reaches the daemon. */
export interface Daemon {
  call(name: string, body: unknown): Promise<unknown>
  /** Fills a buffer with the bytes that an answer announced, of which so many went before. @throws INTERNAL if they are not the next */
  receive(into: Buffer, before: number): void
  /** Whether nobody wants the job's result any more. */
  isStopped(job: number): boolean
}

/** Buffers for chunks, used again. */
const idle: Buffer[] = []

export function createJob(body: JobBody, daemon: Daemon): Job {
  let streams = 0
  const ask = (name: string, request: unknown): Promise<unknown> =>
    daemon.call(`${body.job}:${name}`, request)
  const check = (): void => {
    if (daemon.isStopped(body.job)) throw new ShoalError('ABORTED', 'it is not wanted any more')
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
      let turn = 0
      const fill = (): Promise<Buffer> => {
        const buffer = buffers[turn++ % 2] as Buffer
        const filled = ask('pull', { stream, digest, start, end }).then((answer) => {
          const { length, at } = answer as { length: number; at: number }
          const bytes = buffer.subarray(0, length)
          if (length > 0) daemon.receive(bytes, at)
          return bytes
        })
        filled.catch(() => {})
        return filled
      }
      let ahead = fill()
      try {
        for (;;) {
          const bytes = await ahead
          check()
          if (bytes.length === 0) return
          ahead = fill()
          yield bytes
        }
      } finally {
        await ahead.catch(() => {})
        await ask('drop', { stream }).catch(() => {})
        if (idle.length < 8) idle.push(...buffers)
      }
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
