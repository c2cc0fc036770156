import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { ShoalError } from '../../base/index.ts'
import { type PullOptions, type PullReport, pull } from './client.ts'
import type { ImageSpec } from './image.ts'
import { type Pushed, pushImage } from './push.ts'
import { inside } from './sh.ts'

/** A client that is up already, on a host: an order begins at once, without a process being started for it. */
export interface Agent {
  pull(options: PullOptions): Promise<PullReport>
  /** Rejects with what the registry said. */
  push(registry: string, spec: ImageSpec): Promise<Pushed>
  stop(): void
}

type Order = { pull: PullOptions } | { push: { registry: string; spec: ImageSpec } }
type Answer = { id: number; ok: unknown } | { id: number; error: string }

export function startAgent(netns: string): Agent {
  const [file = '', ...args] = inside(netns, [process.execPath, fileURLToPath(import.meta.url)])
  const child = spawn(file, args, { stdio: ['pipe', 'pipe', 'inherit'] })
  const waiting = new Map<number, { resolve: (answer: unknown) => void; reject: (error: Error) => void }>()
  let next = 0
  child.stdin.on('error', () => {})
  createInterface({ input: child.stdout }).on('line', (line) => {
    const answer = JSON.parse(line) as Answer
    const order = waiting.get(answer.id)
    waiting.delete(answer.id)
    if ('ok' in answer) order?.resolve(answer.ok)
    else order?.reject(new ShoalError('INTERNAL', answer.error))
  })
  child.on('close', () => {
    for (const { reject } of waiting.values()) reject(new ShoalError('INTERNAL', 'the client ended'))
  })
  const send = (order: Order) =>
    new Promise<unknown>((resolve, reject) => {
      const id = next++
      waiting.set(id, { resolve, reject })
      child.stdin.write(`${JSON.stringify({ id, ...order })}\n`)
    })
  return {
    pull: (options) => send({ pull: options }) as Promise<PullReport>,
    push: (registry, spec) => send({ push: { registry, spec } }) as Promise<Pushed>,
    stop: () => void child.kill('SIGKILL'),
  }
}

// Run as a process: an order a line on stdin, an answer a line on stdout.
if (import.meta.main) {
  createInterface({ input: process.stdin }).on('line', async (line) => {
    const { id, ...order } = JSON.parse(line) as Order & { id: number }
    const done = 'pull' in order ? pull(order.pull) : pushImage(order.push.registry, order.push.spec)
    const answer = await done.then(
      (ok) => ({ id, ok }),
      (error) => ({ id, error: String(error) }),
    )
    process.stdout.write(`${JSON.stringify(answer)}\n`)
  })
}
