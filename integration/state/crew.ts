import { type ChildProcess, fork } from 'node:child_process'
import { type Log, ShoalError } from '../../base/index.ts'
import { type Calls, createCalls, type Handler } from './work/calls.ts'

/** The process ends when it had nothing to do for so long; until then it is warm for the next round of a migration. */
const IDLE_MS = 60_000
/** Its heap is small: what it works on lies outside of it. */
const FLAGS = ['--max-semi-space-size=1', '--max-old-space-size=192']

export type Handlers = Record<string, Handler>

/**
 * A process beside the daemon that hashes, compresses and writes files. The daemon's own thread never waits for that, and memory goes
 * back to the system when it ends: a thread in the daemon took 16 MiB, and kept them.
 */
export interface Crew {
  /** Runs a job; while it runs, it may call `handlers`. When the signal fires it ends at its next turn. */
  run(
    job: string,
    body: Record<string, unknown>,
    options: { handlers: Handlers; signal: AbortSignal },
  ): Promise<unknown>
  close(): Promise<void>
}

interface Helper {
  child: ChildProcess
  calls: Calls
  ended: Promise<void>
}

export function createCrew({ log, idleMs = IDLE_MS }: { log: Log; idleMs?: number }): Crew {
  const jobs = new Map<number, Handlers>()
  let helper: Helper | undefined
  let next = 0
  let timer: NodeJS.Timeout | undefined
  let closed = false

  function start(): Helper {
    clearTimeout(timer)
    helper ??= spawn()
    refer(helper, 'ref')
    return helper
  }

  function spawn(): Helper {
    // As this is run: from the sources or built.
    const file = new URL(`./work/main${import.meta.url.endsWith('.ts') ? '.ts' : '.js'}`, import.meta.url)
    const child = fork(file, [], {
      execArgv: FLAGS,
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    })
    const calls = createCalls(
      (message) => void child.send(message as object, () => {}),
      (name) => {
        const at = name.indexOf(':')
        return jobs.get(Number(name.slice(0, at)))?.[name.slice(at + 1)]
      },
    )
    child.on('message', calls.receive)
    const ended = new Promise<void>((resolve) => {
      const end = (error: ShoalError): void => {
        if (helper?.child === child) helper = undefined
        calls.end(error)
        resolve()
      }
      child.on('error', (cause) =>
        end(new ShoalError('INTERNAL', `no process for states: ${cause}`, { cause })),
      )
      child.on('exit', (code, signal) => {
        if (helper?.child === child) log.error({ code, signal }, 'the process for states ended')
        end(new ShoalError('INTERNAL', `the process for states ended (${signal ?? code})`))
      })
    })
    return { child, calls, ended }
  }

  function rest(): void {
    if (jobs.size > 0 || closed || !helper) return
    refer(helper, 'unref')
    timer = setTimeout(() => void stop(), idleMs)
    timer.unref()
  }

  async function stop(): Promise<void> {
    const ending = helper
    helper = undefined
    ending?.child.kill('SIGKILL')
    await ending?.ended
  }

  return {
    async run(job, body, { handlers, signal }) {
      signal.throwIfAborted()
      if (closed) throw new ShoalError('ABORTED', 'states are closed')
      const id = next++
      jobs.set(id, handlers)
      const { calls } = start()
      const onAbort = (): void => void calls.call('stop', { job: id }).catch(() => {})
      signal.addEventListener('abort', onAbort, { once: true })
      try {
        return await calls.call(job, { ...body, job: id })
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

/** Whether this process stays alive for the helper's sake. */
function refer({ child }: Helper, how: 'ref' | 'unref'): void {
  child[how]()
  child.channel?.[how]()
}
