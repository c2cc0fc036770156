import assert from 'node:assert/strict'
import { test } from 'node:test'
import { silentLog } from '../../base/index.ts'
import { createMembership, type MembershipControl } from '../../manager/network/index.ts'
import type { MemberState } from '../../manager/types.ts'
import { createHub, type Hub, type HubNode } from './hub.ts'

interface Site {
  hub: Hub
  ids: string[]
  nodes: Map<string, HubNode>
  members: Map<string, MembershipControl>
}

interface Join {
  site?: string
  name?: string
  bootstrap?: string
  wallClock?: () => number
}

function enter(site: Site, id: string, options: Join = {}): MembershipControl {
  const { hub } = site
  const node = hub.join(id)
  const target = options.bootstrap
  const membership = createMembership({
    links: node.links,
    rpc: node.rpc,
    self: {
      id,
      name: options.name ?? id.toLowerCase(),
      site: options.site ?? 'default',
      addrs: [node.address],
    },
    log: silentLog(),
    now: hub.clock.now,
    wallClock: options.wallClock ?? (() => 1000 + hub.clock.now()),
    timers: node.timers,
    random: hub.random,
    bootstrap:
      target === undefined
        ? []
        : [
            {
              name: target,
              contact: async (links, signal) => [
                await links.connect({ addrs: [`/memory/${target}`] }, signal),
              ],
            },
          ],
  })
  site.nodes.set(id, node)
  site.members.set(id, membership)
  if (!site.ids.includes(id)) site.ids.push(id)
  return membership
}

async function form(count: number, seed = 1): Promise<Site> {
  const site: Site = { hub: createHub({ seed }), ids: [], nodes: new Map(), members: new Map() }
  // No zeros: peer IDs are base58.
  for (let i = 0; i < count; i++)
    enter(site, `N${(i + 111).toString(9).replaceAll('0', 'z')}`, i === 0 ? {} : { bootstrap: site.ids[0]! })
  assert.ok(await site.hub.clock.until(() => agree(site, site.ids), 20_000), 'the site forms')
  return site
}

function seen(site: Site, by: string, id: string): MemberState | undefined {
  return site.members
    .get(by)!
    .list()
    .find((member) => member.id === id)?.state
}

/** Each of `ids` sees exactly these alive. */
function agree(site: Site, ids: string[]): boolean {
  return ids.every((by) => {
    const alive = site.members
      .get(by)!
      .list()
      .filter((member) => member.state === 'alive')
    return alive.length === ids.length && alive.every((member) => ids.includes(member.id))
  })
}

/** True when any of `by` ever takes one of `ids` for dead until the returned function is called. */
function watchDeaths(site: Site, by: string[], ids: string[]): () => string[] {
  const deaths: string[] = []
  const stops = by.map((watcher) =>
    site.members.get(watcher)!.onChange(() => {
      for (const id of ids) if (seen(site, watcher, id) === 'dead') deaths.push(`${watcher} lost ${id}`)
    }),
  )
  return () => {
    for (const stop of stops) stop()
    return deaths
  }
}

for (const count of [2, 3, 8, 40]) {
  test(`${count} nodes: a killed one is dead to all within 3 s, and nobody else is`, async () => {
    const site = await form(count)
    await site.hub.clock.advance(5000)
    const rest = site.ids.slice(0, -1)
    const victim = site.ids.at(-1)!
    const deaths = watchDeaths(site, rest, rest)
    site.nodes.get(victim)!.kill()
    assert.ok(await site.hub.clock.until(() => rest.every((by) => seen(site, by, victim) === 'dead'), 3000))
    assert.deepEqual(deaths(), [])
  })

  test(`${count} nodes: one cut off is dead to all within 3 s, all are to it, and it comes back`, async () => {
    for (let seed = 1; seed <= 3; seed++) {
      const site = await form(count, seed)
      const { clock } = site.hub
      await clock.advance(5000 + site.hub.random() * 1000)
      const rest = site.ids.slice(0, -1)
      const lone = site.ids.at(-1)!
      const deaths = watchDeaths(site, rest, rest)
      site.hub.partition(rest, [lone])
      const apart = (): boolean =>
        rest.every((id) => seen(site, id, lone) === 'dead' && seen(site, lone, id) === 'dead')
      assert.ok(await clock.until(apart, 3000), `seed ${seed}`)
      await clock.advance(20_000)
      site.hub.partition()
      assert.ok(await clock.until(() => agree(site, site.ids), 6000), `it heals, seed ${seed}`)
      assert.deepEqual(deaths(), [], 'nobody believes the verdicts of the one that was cut off')
    }
  })
}

test('a member that hangs for a second is suspected at most', async () => {
  const site = await form(8)
  const deaths = watchDeaths(site, site.ids, site.ids)
  for (let round = 0; round < 20; round++) {
    await site.hub.clock.advance(2000 + site.hub.random() * 1000)
    site.nodes.get(site.ids[round % 8]!)!.hang(1000)
  }
  await site.hub.clock.advance(5000)
  assert.deepEqual(deaths(), [])
  assert.ok(agree(site, site.ids), 'and refutes it')
})

test('one that hangs for long, as a stopped process does, blames nobody when it wakes', async () => {
  const site = await form(4)
  const sleeper = site.ids[1]!
  const rest = site.ids.filter((id) => id !== sleeper)
  const blamed = watchDeaths(site, [sleeper], rest)
  site.nodes.get(sleeper)!.hang(10_000)
  assert.ok(await site.hub.clock.until(() => rest.every((by) => seen(site, by, sleeper) === 'dead'), 3000))
  assert.ok(await site.hub.clock.until(() => agree(site, site.ids), 15_000))
  assert.deepEqual(blamed(), [])
})

test('lost messages, one in ten, kill nobody', async () => {
  const site = await form(8)
  const deaths = watchDeaths(site, site.ids, site.ids)
  site.hub.loss = 0.1
  await site.hub.clock.advance(60_000)
  site.hub.loss = 0
  assert.deepEqual(deaths(), [])
  assert.ok(await site.hub.clock.until(() => agree(site, site.ids), 10_000))
})

test('a site that falls into halves goes on in both, and becomes one again', async () => {
  const site = await form(10)
  const left = site.ids.slice(0, 5)
  const right = site.ids.slice(5)
  await site.hub.clock.advance(3000)
  site.hub.partition(left, right)
  const halves = (): boolean => agree(site, left) && agree(site, right)
  assert.ok(await site.hub.clock.until(halves, 4000))
  await site.hub.clock.advance(30_000)
  // Changes on both sides meanwhile.
  site.nodes.get(left[4]!)!.kill()
  site.hub.partition(left, [...right, 'New1'])
  enter(site, 'New1', { bootstrap: right[0]! })
  await site.hub.clock.advance(5000)
  site.hub.partition()
  const now = site.ids.filter((id) => id !== left[4])
  assert.ok(await site.hub.clock.until(() => agree(site, now), 8000))
})

test('who leaves is known to have left at once, and can return under an older clock', async () => {
  const site = await form(4)
  const leaver = site.ids[3]!
  const rest = site.ids.slice(0, 3)
  const going = site.members.get(leaver)!.leave()
  assert.ok(await site.hub.clock.until(() => rest.every((by) => seen(site, by, leaver) === 'left'), 1000))
  await going
  site.nodes.get(leaver)!.kill()
  await site.hub.clock.advance(5000)
  assert.ok(
    rest.every((by) => seen(site, by, leaver) === 'left'),
    'nobody takes it for dead',
  )
  enter(site, leaver, { bootstrap: site.ids[0]!, wallClock: () => 5 })
  assert.ok(await site.hub.clock.until(() => agree(site, site.ids), 5000))
})

test('a node that restarts before anybody noticed is taken as it is now', async () => {
  const site = await form(3)
  const [first, , last] = site.ids as [string, string, string]
  site.nodes.get(last)!.kill()
  await site.hub.clock.advance(300)
  enter(site, last, { bootstrap: first, name: 'renamed', wallClock: () => 5 })
  const known = (): boolean =>
    site.ids.every((by) => site.members.get(by)!.find('renamed')?.state === 'alive')
  assert.ok(await site.hub.clock.until(known, 5000))
})

test('doubt finds a dead member before its turn', async () => {
  const site = await form(8)
  await site.hub.clock.advance(5000)
  const [doubter, victim] = [site.ids[0]!, site.ids[7]!]
  const rest = site.ids.slice(0, 7)
  site.hub.partition(rest, [victim])
  site.members.get(doubter)!.doubt(victim)
  assert.ok(await site.hub.clock.until(() => rest.every((by) => seen(site, by, victim) === 'dead'), 2000))
})

test('equal names in a site are told apart, and the longest-running keeps it', async () => {
  const site = await form(2)
  enter(site, 'Twin1', { bootstrap: site.ids[0]!, name: 'twin' })
  assert.ok(await site.hub.clock.until(() => agree(site, site.ids), 5000))
  enter(site, 'Twin2', { bootstrap: site.ids[0]!, name: 'twin' })
  enter(site, 'Twin3', { bootstrap: site.ids[0]!, name: 'twin', site: 'elsewhere' })
  const { clock } = site.hub
  assert.ok(
    await clock.until(() => site.ids.every((id) => site.members.get(id)!.list().length === 5), 15_000),
  )
  for (const id of site.ids.slice(0, 4)) {
    const members = site.members.get(id)!
    assert.equal(members.find('twin')?.id, 'Twin1')
    assert.equal(members.find('twin-Twin2')?.id, 'Twin2')
    assert.equal(members.find('Twin2')?.name, 'twin-Twin2')
  }
  const elsewhere = site.members.get('Twin3')!
  assert.equal(elsewhere.find('twin')?.id, 'Twin3')
  assert.deepEqual(
    elsewhere.site().map(({ id }) => id),
    ['Twin3'],
  )
})

test('sites hear of each other over few messages', async () => {
  const site = await form(4)
  for (let i = 1; i <= 4; i++) enter(site, `Far${i}`, { bootstrap: site.ids[0]!, site: 'far' })
  const { hub } = site
  assert.ok(await hub.clock.until(() => agree(site, site.ids), 30_000))
  site.nodes.get('Far4')!.kill()
  const rest = site.ids.slice(0, -1)
  assert.ok(await hub.clock.until(() => rest.every((by) => seen(site, by, 'Far4') === 'dead'), 30_000))
  // The link between the sites is cut: they lose sight of each other slowly, and find each other again.
  const [here, there] = [site.ids.slice(0, 4), site.ids.slice(4, 7)]
  hub.partition(here, there)
  assert.ok(await hub.clock.until(() => agree(site, here) && agree(site, there), 120_000))
  hub.partition()
  assert.ok(await hub.clock.until(() => agree(site, rest), 20_000))
})

test('an idle site is quiet, and a large one costs each member as little', async () => {
  for (const [count, most] of [
    [8, 12],
    [40, 16],
  ] as const) {
    const site = await form(count)
    await site.hub.clock.advance(10_000)
    const before = site.hub.messages
    await site.hub.clock.advance(10_000)
    const each = (site.hub.messages - before) / count / 10
    assert.ok(each < most, `${each} messages a member and second`)
  }
})

test('malformed and hostile messages change nothing', async () => {
  const site = await form(2)
  const [a, b] = site.ids as [string, string]
  const node = site.nodes.get(a)!
  const before = JSON.stringify(site.members.get(b)!.list())
  const bodies = [
    undefined,
    null,
    'ping',
    {},
    { k: 'ping' },
    { k: 'dance', u: [] },
    { k: 'news', u: [['not base58 0OIl', 'x', 'default', [], 0, 1, null, null]] },
    { k: 'news', u: [['X', 'x', 'default', [], 9, 1, null, null]] },
    { k: 'news', u: [['X', 'x', 'default', [], 0, Number.MAX_SAFE_INTEGER, null, null]] },
    { k: 'news', u: [['X', 'x'.repeat(1000), 'default', [], 0, 1, null, null]] },
    { k: 'sync', u: [], v: [['X', 1]] },
    { k: 'reach', u: [], p: 7 },
  ]
  const answers = bodies.map((body) => node.rpc.request(b, 'swim', body, { timeoutMs: 1000 }))
  const settled = Promise.allSettled(answers)
  await site.hub.clock.advance(2000)
  for (const answer of await settled) assert.equal(answer.status, 'rejected')
  assert.equal(JSON.stringify(site.members.get(b)!.list()), before)
})
