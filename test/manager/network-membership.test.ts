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

for (const count of [8, 40]) {
  test(`${count} nodes: a killed one is dead to all within 3 s, and nobody else`, async () => {
    const site = await form(count)
    await site.hub.clock.advance(5000)
    const rest = site.ids.slice(0, -1)
    const victim = site.ids.at(-1)!
    const deaths = watchDeaths(site, rest, rest)
    const start = site.hub.clock.now()
    site.nodes.get(victim)!.kill()
    const found = await site.hub.clock.until(
      () => rest.every((by) => seen(site, by, victim) === 'dead'),
      3000,
    )
    console.log(count, 'kill', site.hub.clock.now() - start)
    assert.ok(found)
    assert.deepEqual(deaths(), [])
  })

  test(`${count} nodes: one that is cut off is dead to all within 3 s, all are dead to it, and it comes back`, async () => {
    for (let k = 0; k < 2; k++) {
      const site = await form(count, k + 1)
      await site.hub.clock.advance(5000 + site.hub.random() * 1000)
      const rest = site.ids.slice(0, -1)
      const lone = site.ids.at(-1)!
      const deaths = watchDeaths(site, rest, rest)
      const start = site.hub.clock.now()
      site.hub.partition(rest, [lone])
      let t1 = 0,
        t2 = 0
      await site.hub.clock.until(() => {
        if (!t1 && rest.every((by) => seen(site, by, lone) === 'dead')) t1 = site.hub.clock.now() - start
        if (!t2 && rest.every((id) => seen(site, lone, id) === 'dead')) t2 = site.hub.clock.now() - start
        return t1 > 0 && t2 > 0
      }, 6000)
      console.log(count, 'cut', t1, t2)
      assert.ok(t1 > 0 && t2 > 0)
      await site.hub.clock.advance(20_000)
      site.hub.partition()
      const h = site.hub.clock.now()
      assert.ok(await site.hub.clock.until(() => agree(site, site.ids), 8000), 'heals')
      console.log(count, 'heal', site.hub.clock.now() - h)
      assert.deepEqual(deaths(), [])
    }
  })
}
