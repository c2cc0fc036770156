import { ShoalError } from '../../base/index.ts'
import { aborted } from './failure.ts'

/** Bytes that may wait for the consumer; past them the connection is not read, so TCP slows the sender down. */
const HIGH_WATER = 128 * 1024
/** What is read to the end for keeping the connection, when nobody wants it any more. */
const DRAIN_BYTES = 64 * 1024
const DRAIN_MS = 1000

/**
 * A link that is slower than the CPU brings a body packet by packet, and each costs a turn of everything from the socket up.
 * Past its first bytes, a body that comes in small chunks is read in breaths: the kernel gathers meanwhile.
 */
const FIRST_BYTES = 128 * 1024
const SMALL = 16 * 1024
const BREATH_MS = 5

/** The connection's side of a body. */
export interface Flow {
  pause(): void
  resume(): void
  abort(reason: Error): void
}

/** A body that is streaming in. One reader, once. A chunk is valid until the next one is asked for. */
export interface Body extends AsyncIterable<Uint8Array> {
  /** How many bytes must come; the body throws when there are more or fewer. Undefined: upstream did not say. */
  expected: number | undefined
  readonly received: number
  /** Nobody wants the rest. A small one is read to the end, so that the connection can be used again. */
  discard(): void
}

/** The sender's end of a body. */
export interface BodySink {
  push(chunk: Uint8Array): void
  end(): void
  fail(error: Error): void
}

/**
 * A body under back-pressure. The stall clock runs only while the consumer waits for bytes and there are none: a slow
 * consumer is not a stalled upstream. What came before a failure is still delivered.
 */
export function createBody(options: {
  flow: Flow
  stallMs: number
  signal: AbortSignal
  /** `HOST/REPOSITORY`, for errors. */
  where: string
}): { body: Body; sink: BodySink } {
  const { flow, stallMs, signal, where } = options
  let queue: Uint8Array[] = []
  let queued = 0
  let received = 0
  let paused = false
  let ended = false
  let discarding = false
  let error: Error | undefined
  let waiter: { resolve(value: IteratorResult<Uint8Array>): void; reject(error: Error): void } | undefined
  let given: Uint8Array | undefined
  const kept = new WeakSet<Uint8Array>()
  let waitingSince = 0
  let timer: NodeJS.Timeout | undefined
  let breath: NodeJS.Timeout | undefined

  const onAbort = (): void => {
    queue = []
    queued = 0
    settle(aborted(signal))
    flow.abort(aborted(signal))
  }
  if (signal.aborted) queueMicrotask(onAbort)
  else signal.addEventListener('abort', onAbort, { once: true })

  function broken(reason: string, cause?: unknown): ShoalError {
    const of = body.expected === undefined ? '' : ` of ${body.expected}`
    return new ShoalError('UPSTREAM_UNREACHABLE', `${where}: ${reason} after ${received}${of} bytes`, {
      cause,
      details: { upstream: where, reason, received, expected: body.expected },
    })
  }

  /** The end, good or bad: no byte will be added from here on. */
  function settle(failure: Error | undefined): void {
    if (ended) return
    ended = true
    error = failure
    clearTimeout(timer)
    signal.removeEventListener('abort', onAbort)
    const waiting = waiter
    waiter = undefined
    if (failure) waiting?.reject(failure)
    else waiting?.resolve({ done: true, value: undefined })
  }

  function onTimer(): void {
    timer = undefined
    if (!waiter || ended) return
    const left = waitingSince + stallMs - performance.now()
    if (left > 0) {
      timer = setTimeout(onTimer, left)
      return
    }
    settle(broken('stalled'))
    flow.abort(new Error('stalled'))
  }

  const sink: BodySink = {
    push(chunk) {
      // The parser's own empty buffer, with which it goes on after a pause: freed, it would break every answer from then on.
      if (chunk.length === 0) return
      received += chunk.length
      if (discarding) {
        if (received > drainLimit) flow.abort(new Error('not wanted'))
        return
      }
      if (ended) return
      if (body.expected !== undefined && received > body.expected) {
        settle(broken('more bytes than announced'))
        flow.abort(new Error('more bytes than announced'))
        return
      }
      if (chunk.length < SMALL && received > FIRST_BYTES) breathe(chunk)
      if (waiter) {
        const { resolve } = waiter
        waiter = undefined
        given = chunk
        resolve({ done: false, value: chunk })
        return
      }
      queue.push(chunk)
      queued += chunk.length
      if (queued >= HIGH_WATER && !paused) {
        paused = true
        pause(chunk)
      }
    },
    end() {
      clearTimeout(drainTimer)
      const short = body.expected !== undefined && received < body.expected
      settle(short ? broken('truncated') : undefined)
    },
    fail(cause) {
      clearTimeout(drainTimer)
      // A connection may break after the last byte, while the reader is still behind: nothing is missing then.
      settle(received === body.expected ? undefined : broken('broken off', cause))
    },
  }

  function resume(): void {
    if (!paused) return
    paused = false
    if (!breath) flow.resume()
  }

  /** The parser stops in the middle of what it was given, and goes on there: the chunk's memory stays its own. */
  function pause(chunk: Uint8Array): void {
    kept.add(chunk)
    flow.pause()
  }

  function breathe(chunk: Uint8Array): void {
    if (breath) return
    pause(chunk)
    breath = setTimeout(() => {
      breath = undefined
      if (paused) return
      try {
        flow.resume()
      } catch (cause) {
        // The parser goes on right here, and its failure is this body's, not the process's.
        sink.fail(cause as Error)
        flow.abort(cause as Error)
      }
    }, BREATH_MS)
  }

  let drainLimit = 0
  let drainTimer: NodeJS.Timeout | undefined
  function discard(): void {
    if (discarding) return
    discarding = true
    queue = []
    queued = 0
    if (ended) return
    settle(undefined)
    drainLimit = received + DRAIN_BYTES
    if (body.expected !== undefined && body.expected > drainLimit) {
      flow.abort(new Error('not wanted'))
      return
    }
    drainTimer = setTimeout(() => flow.abort(new Error('not wanted')), DRAIN_MS)
    drainTimer.unref()
    resume()
  }

  function next(): Promise<IteratorResult<Uint8Array>> {
    if (given && !kept.has(given)) free(given)
    given = undefined
    const chunk = queue.shift()
    if (chunk) {
      queued -= chunk.length
      given = chunk
      if (queued < HIGH_WATER / 2) resume()
      return Promise.resolve({ done: false, value: chunk })
    }
    if (error) {
      const failure = error
      error = undefined
      return Promise.reject(failure)
    }
    if (ended) return Promise.resolve({ done: true, value: undefined })
    if (waiter) return Promise.reject(new ShoalError('INTERNAL', 'a body has one reader'))
    return new Promise((resolve, reject) => {
      waiter = { resolve, reject }
      waitingSince = performance.now()
      timer ??= setTimeout(onTimer, stallMs)
      resume()
    })
  }

  const body: Body = {
    expected: undefined,
    get received() {
      return received
    },
    discard,
    [Symbol.asyncIterator]: () => ({
      next,
      return(): Promise<IteratorResult<Uint8Array>> {
        discard()
        return Promise.resolve({ done: true, value: undefined })
      },
    }),
  }
  return { body, sink }
}

/**
 * Gives a chunk's memory back at once. The collector would let some 60 MiB of read chunks pile up first (measured: 512 MiB read with
 * a peak of 150 MiB resident, with this of 101 MiB and two thirds of the CPU time). Chunks that share their memory are left to it.
 */
function free(chunk: Uint8Array): void {
  const { buffer } = chunk
  if (buffer instanceof ArrayBuffer && buffer.byteLength === chunk.byteLength) buffer.transfer(0)
}

/** The whole of a small body. @throws PROTOCOL when it is larger than `limit` bytes, and what the body throws */
export async function readAll(body: Body, limit: number, where: string): Promise<Buffer> {
  const parts: Buffer[] = []
  let size = 0
  const tooLarge = (): ShoalError =>
    new ShoalError('PROTOCOL', `${where} sent an answer of more than ${limit} bytes`, { details: { limit } })
  if (body.expected !== undefined && body.expected > limit) {
    body.discard()
    throw tooLarge()
  }
  for await (const part of body) {
    size += part.length
    if (size > limit) throw tooLarge()
    parts.push(Buffer.from(part))
  }
  return Buffer.concat(parts, size)
}
