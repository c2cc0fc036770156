import { execFile } from 'node:child_process'
import { promisify } from 'node:util'

const run = promisify(execFile)
const LIMIT_MS = 5000

/**
 * Connected unix sockets of the process's network namespace, inode by inode of their peers. /proc does not say who the peer is; `ss` does
 * (iproute2, by sock_diag). Empty where it cannot be asked: CRIU itself then says what it cannot dump.
 */
export async function unixPeers(pid: number, signal: AbortSignal): Promise<Map<string, string>> {
  const args = ['--target', String(pid), '--net', 'ss', '--unix', '--no-header', '--numeric']
  const { stdout } = await run('nsenter', args, { signal, timeout: LIMIT_MS, maxBuffer: 8 << 20 }).catch(
    () => {
      signal.throwIfAborted()
      return { stdout: '' }
    },
  )
  return readPeers(stdout)
}

/** Of lines such as `u_str ESTAB 0 0 /run/a.sock 4711 * 4712`. */
export function readPeers(text: string): Map<string, string> {
  const peers = new Map<string, string>()
  for (const line of text.split('\n')) {
    const match = /^u_\w+\s+ESTAB\s+\d+\s+\d+\s.*?\s(\d+)\s+\S+\s+(\d+)\s*$/.exec(line)
    if (match?.[1] && match[2] && match[2] !== '0') peers.set(match[1], match[2])
  }
  return peers
}
