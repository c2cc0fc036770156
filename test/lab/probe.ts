import { connect } from 'node:net'

/** What a stranger learns: connects, says what it is told to, and reports what came back until the end. */
export interface ProbeReport {
  connected: boolean
  /** Hex of what was received, at most 4 KiB. */
  received: string
  /** ms until the other end closed, undefined where it had not within the patience. */
  closedMs?: number
}

export function probe(host: string, port: number, say: Buffer, patienceMs: number): Promise<ProbeReport> {
  return new Promise((resolve) => {
    const parts: Buffer[] = []
    const from = performance.now()
    let connected = false
    const socket = connect(port, host, () => {
      connected = true
      if (say.length > 0) socket.write(say)
    })
    const finish = (closed: boolean) => {
      clearTimeout(timer)
      socket.destroy()
      resolve({
        connected,
        received: Buffer.concat(parts).subarray(0, 4096).toString('hex'),
        ...(closed ? { closedMs: performance.now() - from } : {}),
      })
    }
    const timer = setTimeout(() => finish(false), patienceMs)
    socket.on('data', (data) => parts.push(data))
    socket.on('error', () => {})
    socket.on('close', () => finish(true))
  })
}

if (import.meta.main) {
  const [host = '', port = '', hex = '', patience = '15000'] = process.argv.slice(2)
  process.stdout.write(
    JSON.stringify(await probe(host, Number(port), Buffer.from(hex, 'hex'), Number(patience))),
  )
}
