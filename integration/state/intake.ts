import type { Readable } from 'node:stream'
import { ShoalError } from '../../base/index.ts'

/** Cuts what comes from a stream into pieces of lengths that are known by other ways, in order. */
export interface Intake {
  /** `at`: bytes before them. @throws INTERNAL when these are not the next */
  take(piece: { at: number; length: number }): Promise<Uint8Array>
  end(error: Error): void
}

/** The stream is always read: who sends must wait until what was sent has been asked for. */
export function createIntake(stream: Readable): Intake {
  const parts: Buffer[] = []
  const wanted: { length: number; done: PromiseWithResolvers<Uint8Array> }[] = []
  let here = 0
  let asked = 0
  let over: Error | undefined

  function serve(): void {
    for (let first = wanted[0]; first && here >= first.length; first = wanted[0]) {
      wanted.shift()
      const bytes = Buffer.allocUnsafe(first.length)
      for (let at = 0; at < first.length; ) {
        const part = parts[0] as Buffer
        const used = part.copy(bytes, at, 0, first.length - at)
        at += used
        if (used === part.length) parts.shift()
        else parts[0] = part.subarray(used)
      }
      here -= first.length
      first.done.resolve(bytes)
    }
  }

  stream.on('data', (chunk: Buffer) => {
    parts.push(chunk)
    here += chunk.length
    serve()
  })
  stream.on('error', () => {})

  return {
    take({ at, length }) {
      if (over) return Promise.reject(over)
      if (at !== asked) return Promise.reject(new ShoalError('INTERNAL', 'pieces came in another order'))
      asked += length
      const done = Promise.withResolvers<Uint8Array>()
      wanted.push({ length, done })
      serve()
      return done.promise
    },
    end(error) {
      over = error
      for (const { done } of wanted) done.reject(error)
      wanted.length = 0
    },
  }
}
