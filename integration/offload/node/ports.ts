import { createServer } from 'node:net'
import { ShoalError } from '../../../base/index.ts'

/** The range that Kubernetes gives to node ports too: outside of what the kernel gives to clients (32768 and up). */
const FIRST = 30000
const LAST = 32767

/** A port of this node that no pod has and nobody listens on. @throws UNFIT when there is none */
export async function freePort(taken: ReadonlySet<number>, from = FIRST): Promise<number> {
  const count = LAST - FIRST + 1
  for (let i = 0; i < count; i++) {
    const port = FIRST + ((from - FIRST + i) % count)
    if (!taken.has(port) && (await isFree(port))) return port
  }
  throw new ShoalError('UNFIT', 'no port is free on the node')
}

export function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer()
    server.once('error', () => resolve(false))
    server.listen({ port, host: '0.0.0.0', exclusive: true }, () => server.close(() => resolve(true)))
  })
}
