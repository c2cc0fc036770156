import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdirSync, rmSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import { run, until } from '../lab/sh.ts'

const BATCH = 500

/** A Redis of this machine, as a plain process that CRIU can dump. */
export interface Redis {
  /** Sets these keys to new values of 680 bytes, which compress as what programs keep does. */
  set(keys: Iterable<number>): Promise<void>
  /** Dumps it into a new directory, left running, and resolves to that. */
  dump(name: string): Promise<string>
  /** Restores what was dumped into this directory, after `stop`, and resolves when it runs; the same process ID is used again. */
  restore(dir: string): Promise<void>
  stop(): Promise<void>
}

export async function startRedis({ dir }: { dir: string }): Promise<Redis> {
  const socketPath = join(dir, 'redis.sock')
  const args = ['--port', '0', '--unixsocket', socketPath, '--save', '', '--appendonly', 'no']
  // A session of its own and no files of ours: CRIU dumps neither.
  const server = spawn('redis-server', args, { cwd: dir, detached: true, stdio: 'ignore' })
  const failed = once(server, 'error').then(([error]) => Promise.reject(error))
  failed.catch(() => {})
  let restored = false

  async function set(keys: Iterable<number>): Promise<void> {
    const client = await Promise.race([open(socketPath, server), failed])
    try {
      let batch: string[] = []
      for (const key of keys) {
        const value = randomBytes(12).toString('hex').repeat(28)
        batch.push(
          `*3\r\n$3\r\nSET\r\n$${`key:${key}`.length}\r\nkey:${key}\r\n$${value.length}\r\n${value}\r\n`,
        )
        if (batch.length < BATCH) continue
        await send(client, batch)
        batch = []
      }
      if (batch.length > 0) await send(client, batch)
    } finally {
      // It must be gone when the process is dumped.
      client.end()
      await once(client, 'close')
    }
  }

  return {
    set,
    async dump(name) {
      const into = join(dir, name)
      rmSync(into, { recursive: true, force: true })
      mkdirSync(into)
      const options = ['--leave-running', '--file-locks', '--ext-unix-sk', '-v0']
      await run(['criu', 'dump', '-t', `${server.pid}`, '-D', into, ...options])
      return into
    },
    async restore(from) {
      const options = ['--restore-detached', '--file-locks', '--ext-unix-sk', '-v0']
      await run(['criu', 'restore', '-D', from, ...options])
      restored = true
    },
    async stop() {
      if (restored) {
        process.kill(server.pid!, 'SIGKILL')
        restored = false
        await until('the restored Redis has ended', () => !existsSync(`/proc/${server.pid}`))
      }
      if (server.exitCode !== null || server.signalCode !== null) return
      const ended = once(server, 'exit')
      server.kill('SIGKILL')
      await ended
    },
  }
}

async function open(path: string, server: ChildProcess): Promise<Socket> {
  for (let tries = 0; ; tries++) {
    const socket = connect(path)
    try {
      await once(socket, 'connect')
      return socket
    } catch (error) {
      if (tries > 300 || server.exitCode !== null) throw error
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
  }
}

async function send(client: Socket, batch: string[]): Promise<void> {
  client.write(batch.join(''))
  for (let answers = 0; answers < batch.length; ) {
    const [chunk] = (await once(client, 'data')) as [Buffer]
    for (const byte of chunk) if (byte === 0x0a) answers++
  }
}
