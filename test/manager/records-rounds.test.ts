import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { silentLog } from '../../base/index.ts'
import { createRounds } from '../../manager/records/rounds.ts'
import { createSpread } from '../../manager/records/spread.ts'
import type { Table } from '../../manager/records/table.ts'
import type { Member, Membership, Rpc } from '../../manager/types.ts'

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))
const signal = AbortSignal.timeout(60_000)

function site(count: number) {
  const listeners = new Set<() => void>()
  const of = (id: string): Member => ({ id, name: id, site: 's', addrs: [], state: 'alive', incarnation: 0 })
  let members = Array.from({ length: count }, (_, at) => of(`n${at}`))
  const membership = {
    self: members[0]!,
    list: () => members,
    onChange(listener: () => void) {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    doubt: () => {},
  } as unknown as Membership
  return {
    membership,
    join(id: string) {
      members = [...members, of(id)]
      for (const listener of listeners) listener()
    },
  }
}

function rounds(membership: Membership, options: { answers: boolean; random?: () => number }) {
  const asked: string[] = []
  const made = createRounds({
    members: membership,
    sync: {
      async with(peer) {
        asked.push(peer)
        if (!options.answers) throw new Error('no answer')
        return { taken: 0, given: 0, refused: 0 }
      },
    },
    chores: async () => {},
    onMembers: () => {},
    timing: { settleMs: 0, retryMs: 20, everyMs: 1e6, choresMs: 1e6 },
    log: silentLog(),
    random: options.random ?? (() => 0),
  })
  return { ...made, asked }
}

describe('comparing records', () => {
  it('with a peer that does not answer happens less and less often', async () => {
    const { asked, close } = rounds(site(2).membership, { answers: false })
    await pause(1000)
    await close()
    assert.ok(asked.length > 2 && asked.length <= 8, `${asked.length} times in a second`)
  })

  it('happens once for many writes that a peer missed', async () => {
    const { asked, missed, close } = rounds(site(2).membership, { answers: true })
    await pause(50)
    const before = asked.length
    for (let i = 0; i < 100; i++) missed('n1')
    await pause(200)
    await close()
    assert.equal(asked.length - before, 1)
  })

  it('with one that appears in a large site is not what everybody does', async () => {
    const { membership, join } = site(100)
    let luck = 0
    const { asked, close } = rounds(membership, { answers: true, random: () => luck })
    await pause(50)
    assert.equal(asked.length, 4, 'who starts asks some')
    luck = 0.2
    join('newcomer')
    await pause(50)
    luck = 0.03
    join('another')
    await pause(50)
    await close()
    assert.deepEqual(asked.slice(4), ['another'])
  })
})

it('a write goes to a bounded number of peers at a time, and to all of them', async () => {
  let under = 0
  let most = 0
  let told = 0
  const rpc = {
    handle: () => {},
    async request() {
      most = Math.max(most, ++under)
      await pause(1)
      under--
      told++
      return { ahead: 0 }
    },
  } as unknown as Rpc
  const { membership } = site(1)
  const spread = createSpread({
    members: membership,
    rpc,
    table: {} as Table,
    onMissed: () => {},
    log: silentLog(),
  })
  const peers = Array.from({ length: 999 }, (_, at) => `p${at}`)
  const row = { writes: [{ stamp: { ms: 1, count: 0, node: 'n0' }, text: '1' }], seen: [] }
  await spread.send('k', row, { peers, needed: 3, signal })
  for (let i = 0; i < 1000 && told < 999; i++) await pause(10)
  assert.equal(told, 999)
  assert.ok(most <= 64, `${most} at a time`)
})
