import { type ErrorCode, ShoalError } from '../../../base/index.ts'

export type Handler = (body: never) => unknown

export interface Calls {
  /** Runs the other side's handler of this name. Errors that it throws come as ShoalErrors with their code. */
  call(name: string, body: unknown): Promise<unknown>
  /** Takes what the other side posted. */
  receive(message: unknown): void
  /** Nobody will answer any more. */
  end(error: Error): void
}

type Message =
  | { kind: 'call'; id: number; name: string; body: never }
  | { kind: 'done'; id: number; value: unknown }
  | { kind: 'failed'; id: number; code: ErrorCode; message: string; details: Record<string, unknown> }

/** Requests between threads, in both directions over one port. */
export function createCalls(
  post: (message: unknown) => void,
  handler: (name: string) => Handler | undefined,
): Calls {
  const open = new Map<number, PromiseWithResolvers<unknown>>()
  let next = 0
  let over: Error | undefined

  async function answer(id: number, name: string, body: never): Promise<void> {
    try {
      const handle = handler(name)
      if (!handle) throw new ShoalError('ABORTED', `nobody answers ${name} any more`)
      post({ kind: 'done', id, value: await handle(body) })
    } catch (error) {
      const { code, message, details } = toError(error)
      post({ kind: 'failed', id, code, message, details: plain(details) })
    }
  }

  return {
    receive(posted) {
      const message = posted as Message
      if (message.kind === 'call') {
        void answer(message.id, message.name, message.body)
        return
      }
      const waiting = open.get(message.id)
      open.delete(message.id)
      if (message.kind === 'done') waiting?.resolve(message.value)
      else waiting?.reject(new ShoalError(message.code, message.message, { details: message.details }))
    },
    call(name, body) {
      if (over) return Promise.reject(over)
      const id = next++
      const waiting = Promise.withResolvers<unknown>()
      open.set(id, waiting)
      post({ kind: 'call', id, name, body })
      return waiting.promise
    },
    end(error) {
      over ??= error
      for (const waiting of open.values()) waiting.reject(over)
      open.clear()
    },
  }
}

function toError(error: unknown): ShoalError {
  if (error instanceof ShoalError) return error
  const { code, message } = error as NodeJS.ErrnoException
  const isFull = code === 'ENOSPC' || code === 'EDQUOT'
  if (error instanceof Error && error.name === 'AbortError') return new ShoalError('ABORTED', message)
  return new ShoalError(
    isFull ? 'STORE_FULL' : 'INTERNAL',
    error instanceof Error ? message : String(error),
    {
      details: code === undefined ? {} : { errno: code },
    },
  )
}

/** Details are for logs: what cannot cross to another thread is left out. */
function plain(details: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(details).filter(([, value]) => typeof value !== 'object'))
}
