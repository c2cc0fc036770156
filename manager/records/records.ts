import { type Log, ShoalError } from '../../base/index.ts'
import type { BlockStore } from '../../blockstore/index.ts'
import type { Membership, Rpc } from '../types.ts'
import { createClock } from './clock.ts'
import { isKey, MAX_KEY, MAX_VALUE } from './messages.ts'
import { ownOf } from './own.ts'
import { createRoll, livePeers } from './roll.ts'
import { createRounds, TIMING, type Timing } from './rounds.ts'
import { recordOf } from './row.ts'
import { createSpread } from './spread.ts'
import { createSync } from './sync.ts'
import { createTable } from './table.ts'
import { createClusterTime } from './time.ts'
import type { SharedRecords } from './types.ts'

/** A node that just started does not know what time it is and what was written: so long its first write waits for the others. */
const SETTLE_MS = 2500

/** See SharedRecords in types.ts. The table lives in the store's index; the caller closes this before the store. */
export function createSharedRecords(deps: {
  members: Membership
  rpc: Rpc
  store: BlockStore
  log: Log
  random?: () => number
  /** ms since the epoch. */
  now?: () => number
  timing?: Partial<Timing>
}): SharedRecords {
  const { members, rpc, store, random = Math.random, now = Date.now } = deps
  const log = deps.log.child({ part: 'records' })
  const time = createClusterTime(now)
  const clock = createClock({ node: members.self.id, now: time.now })
  const table = createTable({ store, clock, now: time.now, log })
  const roll = createRoll({ members, store, now, log })
  const rounds = createRounds({
    members,
    sync: createSync({ rpc, table, now, onTime: time.heard }),
    chores: async () => {
      await tidy()
      await table.purge()
    },
    onMembers: () => roll.update(),
    timing: { ...TIMING, ...deps.timing },
    log,
    random,
  })
  const spread = createSpread({ members, rpc, table, log, onMissed: (peer) => rounds.missed(peer) })

  let ready: Promise<void> | undefined

  /** What said something of nodes that are gone for good goes, too. */
  async function tidy(): Promise<void> {
    const gone = await roll.forgotten()
    if (gone.length === 0) return
    const keys: string[] = []
    for await (const { key } of table.entries('')) keys.push(key)
    for (const key of ownOf(keys, gone)) await write(key, undefined, { copies: 1 })
  }

  async function settle(): Promise<void> {
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, SETTLE_MS)
    })
    await Promise.race([members.settled.catch(() => {}).then(rounds.catchUp), late])
    clearTimeout(timer)
  }

  const write: SharedRecords['put'] = async (key, value, { copies, signal }) => {
    if (!isKey(key)) throw new ShoalError('NAME_INVALID', `a key has 1 to ${MAX_KEY} bytes of text`)
    const text = value === undefined ? undefined : (JSON.stringify(value) as string | undefined)
    if (value !== undefined && text === undefined) {
      throw new ShoalError('INTERNAL', `no JSON has the value for ${key}`)
    }
    if (text !== undefined && Buffer.byteLength(text) > MAX_VALUE) {
      throw new ShoalError('USAGE', `a value has at most ${MAX_VALUE} bytes of JSON, ${key} has more`)
    }
    ready ??= settle()
    await ready
    const size = await roll.size()
    const peers = livePeers(members)
    const needed = Math.min(copies, size)
    if (1 + peers.length < needed) {
      throw new ShoalError(
        'NO_QUORUM',
        `${copies} copies are wanted, and ${1 + peers.length} of the cluster's ${size} nodes are there`,
        { details: { confirmed: 0, needed, written: false } },
      )
    }
    signal?.throwIfAborted()
    const row = await table.write(key, text)
    await spread.send(key, row, { peers, needed: needed - 1, signal })
    return row.writes[0]!.stamp
  }

  return {
    put: write,
    async get(key) {
      const row = await table.get(key)
      return row && recordOf(key, row)
    },
    entries: (prefix) => table.entries(prefix),
    time: time.now,
    onChange: (prefix, listener) => table.onChange(prefix, listener),
    async close() {
      await rounds.close()
      await roll.close()
      await table.close()
    },
  }
}
