import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { inside, run } from '../lab/sh.ts'
import { workAddress } from './migration-lab.ts'

const CLIENT = fileURLToPath(new URL('redis-client.ts', import.meta.url))

/** The command line of a Redis that keeps everything in memory. */
export const REDIS = [
  '/bin/redis-server',
  ...['--bind', '0.0.0.0', '--protected-mode', 'no', '--save', '', '--dir', '/'],
]

export interface Written {
  acknowledged: number
  /** What was acknowledged and is not there. */
  missing: string[]
  written: number
  reconnects: number
}

export interface Polled {
  longestMs: number
  answers: number
}

/** It may be on either of two hosts. */
const ADDRESSES = [workAddress(0), workAddress(1)].join()

const command = (...args: string[]): string[] => [process.execPath, CLIENT, ...args]

export async function fillRedis(netns: string, mib: number): Promise<void> {
  await run(command('fill', ADDRESSES, `${mib}`), { netns })
}

/** A client that goes on until it is stopped, and says then what it saw. */
export function startClient<T>(netns: string, ...args: string[]): { stop(): Promise<T> } {
  const [file = '', ...rest] = inside(netns, command(...args))
  const child = spawn(file, rest, { stdio: ['pipe', 'pipe', 'inherit'] })
  let said = ''
  child.stdout.on('data', (part: Buffer) => {
    said += String(part)
  })
  const ended = new Promise<void>((resolve) => child.on('close', () => resolve()))
  return {
    async stop() {
      child.stdin.end()
      await ended
      return JSON.parse(said) as T
    },
  }
}

export const startWriter = (netns: string, mib: number, perSecond: number) =>
  startClient<Written>(netns, 'write', ADDRESSES, `${mib}`, `${perSecond}`)
export const startPoller = (netns: string) => startClient<Polled>(netns, 'poll', ADDRESSES)
