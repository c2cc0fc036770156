import type { Log } from '../base/index.ts'
import type { BlockStore } from '../blockstore/index.ts'
import { rendezvous } from '../scheduler/index.ts'
import { fields, text } from './tasks/index.ts'
import type { Hints, Membership, PeerId, Rpc } from './types.ts'

/** So many nodes keep a hint; more are asked, because members may have come and gone since. */
const KEEPERS = 3
const ASKED = 6
const TIMEOUT_MS = 800
const MAX_VALUE = 4096
const MAX_AGE_MS = 90 * 24 * 3600 * 1000

interface Kept {
  value: unknown
  at: number
}

/** See Hints in types.ts. What this node keeps for others survives its restart. */
export function createHints(deps: { members: Membership; rpc: Rpc; store: BlockStore; log: Log }): Hints {
  const { members, rpc, store, log } = deps
  const self = members.self.id
  const kept = store.records<Kept>('hints')

  const order = (key: string): PeerId[] =>
    rendezvous(
      key,
      members.site().map((member) => member.id),
    )

  async function keep(key: string, value: unknown, at: number): Promise<void> {
    const old = await kept.get(key)
    if (!old || old.at <= at) await kept.put(key, { value, at })
  }

  async function fresh(key: string): Promise<Kept | undefined> {
    const found = await kept.get(key)
    return found && Date.now() - found.at < MAX_AGE_MS ? found : undefined
  }

  rpc.handle('hint.put', async (_peer, body) => {
    const f = fields(body)
    const value = text(f.value, 'value', MAX_VALUE)
    // A clock that runs ahead must not make its hints unbeatable.
    const at = Math.min(Number(f.at) || 0, Date.now())
    await keep(text(f.key, 'key', 1024), JSON.parse(value), at)
    return undefined
  })
  rpc.handle('hint.get', async (_peer, body) => {
    const found = await fresh(text(fields(body).key, 'key', 1024))
    return found ? { value: JSON.stringify(found.value), at: found.at } : {}
  })

  return {
    publish(key, value) {
      const at = Date.now()
      const body = { key, value: JSON.stringify(value), at }
      for (const peer of order(key).slice(0, KEEPERS)) {
        if (peer !== self) rpc.notify(peer, 'hint.put', body)
        else
          keep(key, value, at).catch((error) => log.warn({ error: String(error) }, 'keeping a hint failed'))
      }
    },
    async lookup(key, signal) {
      const ask = async (peer: PeerId): Promise<(Kept & { from: PeerId }) | undefined> => {
        if (peer === self) {
          const found = await fresh(key)
          return found && { ...found, from: self }
        }
        const reply = fields(await rpc.request(peer, 'hint.get', { key }, { timeoutMs: TIMEOUT_MS, signal }))
        if (typeof reply.value !== 'string') return undefined
        return { value: JSON.parse(reply.value), at: Number(reply.at) || 0, from: peer }
      }
      const answers = await Promise.allSettled(order(key).slice(0, ASKED).map(ask))
      return answers
        .flatMap((answer) => (answer.status === 'fulfilled' && answer.value ? [answer.value] : []))
        .sort((a, b) => b.at - a.at)
    },
  }
}
