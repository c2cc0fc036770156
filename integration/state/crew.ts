import { Worker } from 'node:worker_threads'
import { type Log, ShoalError } from '../../base/index.ts'
import { type Calls, createCalls, type Handler } from './work/calls.ts'

/** The thread ends when it had nothing to do for so long; until then it is warm for the next round of a migration. */
const IDLE_MS = 60_000

export type Handlers = Record<string, Handler>

/** One thread that hashes, compresses and writes files, so that the daemon's own never waits for that. */
export interface Crew {
  /**
   * Runs a job. While it runs, the thread may call `handlers`. When the signal fires the job ends as soon as it looks, and so does this.
   */
  run(
    job: string,
    body: Record<string, unknown>,
    options: { handlers: Handlers; signal: AbortSignal },
  ): Promise<unknown>
  close(): Promise<void>
}

export function createCrew({ log, idleMs = IDLE_MS }: { log: Log; idleMs?: number }): Crew {
  const jobs = new Map<number, Handlers>()
  let thread: { worker: Worker; calls: Calls } | undefined
  let next = 0
  let timer: NodeJS.Timeout | undefined
  let closed = false

  function start(): Calls {
    clearTimeout(timer)
    if (thread) {
      thread.worker.ref()
      return thread.calls
    }
    // As it is run: from the sources or built.
    const file = new URL(`./work/worker${import.meta.url.endsWith('.ts') ? '.ts' : '.js'}`, import.meta.url)
    const worker = new Worker(file, {
      name: 'shoal-state',
      resourceLimits: { maxYoungGenerationSizeMb: 4, maxOldGenerationSizeMb: 128 },
    })
    const calls = createCalls(
      (message) => worker.postMessage(message),
      (name) => {
        const at = name.indexOf(':')
        return jobs.get(Number(name.slice(0, at)))?.[name.slice(at + 1)]
      },
    )
    worker.on('message', calls.receive)
    const ended = (error: Error): void => {
      if (thread?.worker === worker) thread = undefined
      calls.end(error)
    }
    worker.on('error', (error) => {
      log.error({ error: String(error) }, 'the thread for states failed')
      ended(new ShoalError('INTERNAL', `the thread for states failed: ${error}`, { cause: error }))
    })
    worker.on('exit', () => ended(new ShoalError('ABORTED', 'the thread for states has ended')))
    thread = { worker, calls }
    return calls
  }

  function rest(): void {
    if (jobs.size > 0 || closed) return
    thread?.worker.unref()
    timer = setTimeout(() => void stop(), idleMs)
    timer.unref()
  }

  async function stop(): Promise<void> {
    const ending = thread?.worker
    thread = undefined
    await ending?.terminate()
  }

  return {
    async run(job, body, { handlers, signal }) {
      signal.throwIfAborted()
      if (closed) throw new ShoalError('ABORTED', 'states are closed')
      const id = next++
      const stopped = new Int32Array(new SharedArrayBuffer(4))
      const onAbort = (): void => void Atomics.store(stopped, 0, 1)
      signal.addEventListener('abort', onAbort, { once: true })
      jobs.set(id, handlers)
      const calls = start()
      try {
        return await calls.call(job, { ...body, job: id, stopped })
      } catch (error) {
        signal.throwIfAborted()
        throw error
      } finally {
        signal.removeEventListener('abort', onAbort)
        jobs.delete(id)
        rest()
      }
    },
    async close() {
      closed = true
      clearTimeout(timer)
      await stop()
    },
  }
}
