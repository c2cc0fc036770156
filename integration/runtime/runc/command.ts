import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { isShoalError, ShoalError } from '../../../base/index.ts'
import { unmountBelow } from '../mounts.ts'
import { aborted, ended, lastLines, plainEnvironment, run } from '../run.ts'
import type { ContainerState } from '../types.ts'

/** What `runc list` and `runc state` say. */
export interface RuncState {
  id: string
  pid: number
  status: ContainerState
  bundle: string
  rootfs: string
}

export interface Runc {
  readonly command: string
  /** Flags before any command. */
  readonly global: readonly string[]
  list(signal: AbortSignal): Promise<RuncState[]>
  /** Undefined where there is none. */
  state(id: string, signal: AbortSignal): Promise<RuncState | undefined>
  /** SIGKILL to all processes, paused or not, until they have ended. @throws RUNTIME when they do not */
  kill(id: string, signal: AbortSignal): Promise<void>
  /** Ends all processes and removes the container, if there is one; its bundle stays. @throws RUNTIME */
  end(id: string, signal: AbortSignal): Promise<void>
  /** Runs a command of runc's to its end. @throws RUNTIME */
  call(args: string[], options: { signal: AbortSignal; timeoutMs?: number }): Promise<void>
  /**
   * The same with /dev/null for stdio, which a container inherits, and runc's own words in a file. In a process group of its own, all of
   * which is killed when the signal ends.
   */
  detached(
    args: string[],
    options: { signal: AbortSignal; timeoutMs: number; log: string; netns?: string | undefined },
  ): Promise<void>
}

const END_MS = 30_000

export function createRunc({
  root,
  command = 'runc',
  criu,
}: {
  root: string
  command?: string
  criu?: string
}): Runc {
  const global = ['--root', root, ...(criu === undefined ? [] : ['--criu', criu])]
  const runc: Runc = {
    command,
    global,
    async list(signal) {
      if (signal.aborted) throw aborted(signal)
      // It would make the directory.
      if (!existsSync(root)) return []
      const { stdout } = await run(command, [...global, 'list', '-f', 'json'], { signal })
      return (JSON.parse(stdout || 'null') as RuncState[] | null) ?? []
    },
    async state(id, signal) {
      const { code, stdout, stderr } = await run(command, [...global, 'state', id], { signal, ok: [0, 1] })
      if (code === 0) return JSON.parse(stdout) as RuncState
      if (/does not exist|invalid (id|container id)/i.test(stderr)) return undefined
      throw new ShoalError('RUNTIME', `runc state failed: ${lastLines(stderr)}`)
    },
    async kill(id, signal) {
      const isUp = async (): Promise<boolean> => {
        const state = await runc.state(id, signal)
        return state !== undefined && state.status !== 'stopped'
      }
      if (!(await isUp())) return
      // To all at once while they are frozen: runc thaws them when each has its signal, so that nobody runs again.
      await runc.call(['kill', '--all', id, 'KILL'], { signal }).catch(async (error: unknown) => {
        // It may have ended by itself just now.
        if (!isShoalError(error, 'RUNTIME') || (await isUp())) throw error
      })
      const end = Date.now() + END_MS
      while (await isUp()) {
        if (Date.now() > end) throw new ShoalError('RUNTIME', `the processes of ${id} do not die`)
        await setTimeout(20, undefined, { signal }).catch(() => {})
      }
    },
    async end(id, signal) {
      await runc.kill(id, signal)
      // Of a restore that was cut short there may be a directory that only this command sees, with the root file
      // system mounted in it.
      await unmountBelow(join(root, id), signal)
      await runc.call(['delete', '--force', id], { signal, timeoutMs: END_MS })
    },
    async call(args, options) {
      await run(command, [...global, ...args], options)
    },
    async detached(args, { signal, timeoutMs, log, netns }) {
      const all = [command, ...global, '--log', log, '--log-format', 'json', ...args]
      if (netns !== undefined) all.unshift('nsenter', `--net=${netns}`)
      const child = spawn(all[0]!, all.slice(1), { stdio: 'ignore', detached: true, env: plainEnvironment() })
      // CRIU is a child of runc's, and must not go on by itself.
      child.once('exit', (_, killed) => {
        if (killed === 'SIGKILL' && child.pid !== undefined) killGroup(child.pid)
      })
      const code = await ended(child, command, { signal, timeoutMs })
      if (code !== 0) throw new ShoalError('RUNTIME', `runc ${args[0]} failed: ${await said(log, code)}`)
    },
  }
  return runc
}

async function said(log: string, code: number): Promise<string> {
  const lines = (await readFile(log, 'utf8').catch(() => '')).trim().split('\n')
  for (const line of lines.reverse()) {
    const message = /"msg":"((?:[^"\\]|\\.)*)"/.exec(line)?.[1]
    if (message) return JSON.parse(`"${message}"`) as string
  }
  return `exit code ${code}`
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL')
  } catch {
    // All gone.
  }
}
