import { type Log, ShoalError } from '../../base/index.ts'
import type { Membership, PeerId, Rpc } from '../types.ts'
import { packRows, readAhead, readRows } from './messages.ts'
import type { Row } from './row.ts'
import type { Table } from './table.ts'

const TIMEOUT_MS = 5000
/** Peers that a write is on its way to at a time: each takes the memory of a message, and perhaps a dial. */
const AT_ONCE = 64

/** Brings a write to the other nodes. */
export interface Spread {
  /**
   * Sends to all peers, 64 at a time; resolves when `needed` of them confirmed, and goes on with the others.
   * @throws NO_QUORUM | ABORTED
   */
  send(
    key: string,
    row: Row,
    to: { peers: PeerId[]; needed: number; signal: AbortSignal | undefined },
  ): Promise<void>
}

export function createSpread(deps: {
  members: Membership
  rpc: Rpc
  table: Table
  onMissed: (peer: PeerId) => void
  log: Log
}): Spread {
  const { members, rpc, table, onMissed, log } = deps

  rpc.handle('record.put', async (_peer, body) => {
    return { ahead: (await table.takeAll(readRows(body))).refused }
  })

  return {
    async send(key, row, { peers, needed, signal }) {
      const body = { rows: packRows([[key, row]]) }
      const { promise, resolve, reject } = Promise.withResolvers<void>()
      let confirmed = 0
      let open = peers.length
      let ahead = 0

      function check(): void {
        if (confirmed >= needed) resolve()
        if (confirmed + open >= needed) return
        const clock = ahead > 0 ? `; ${ahead} say that this node's clock is far ahead` : ''
        const of = needed - confirmed
        reject(
          new ShoalError(
            'NO_QUORUM',
            `the write is here and on ${confirmed} more nodes, ${of} too few${clock}`,
            {
              details: { confirmed: confirmed + 1, needed: needed + 1, written: true },
            },
          ),
        )
      }

      async function tell(peer: PeerId): Promise<void> {
        try {
          const refused = readAhead(await rpc.request(peer, 'record.put', body, { timeoutMs: TIMEOUT_MS }))
          if (refused === 0) confirmed++
          else ahead++
        } catch (error) {
          log.debug({ peer, key, error: String(error) }, 'a record did not get there')
          members.doubt(peer)
          onMissed(peer)
        }
        open--
        check()
      }

      const rest = peers.values()
      async function tellNext(): Promise<void> {
        for (const peer of rest) await tell(peer)
      }

      const onAbort = (): void => reject(new ShoalError('ABORTED', 'given up', { cause: signal?.reason }))
      signal?.addEventListener('abort', onAbort, { once: true })
      for (let lane = 0; lane < AT_ONCE; lane++) void tellNext()
      check()
      try {
        await promise
      } finally {
        signal?.removeEventListener('abort', onAbort)
      }
    },
  }
}
