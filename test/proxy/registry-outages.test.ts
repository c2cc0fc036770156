import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Manager, Member, RpcHandler } from '../../manager/types.ts'
import { shareOutages } from '../../proxy/registry/outages.ts'

test('who finds an upstream out of reach tells a few neighbours, now and then', async () => {
  const site = Array.from({ length: 40 }, (_, i): Member => {
    return { id: `n${i}`, name: `n${i}`, site: 's', addrs: [], state: 'alive', incarnation: 0 }
  })
  const told: { to: string; method: string; body: unknown }[] = []
  const handlers = new Map<string, RpcHandler>()
  const doubted: unknown[] = []
  let found = (_origin: string): void => {}
  let time = 0
  shareOutages({
    manager: {
      self: site[0]!,
      members: { site: () => site } as Manager['members'],
      rpc: {
        request: async () => undefined,
        notify: (to, method, body) => void told.push({ to, method, body }),
        handle: (method, handler) => void handlers.set(method, handler),
      },
    },
    upstream: {
      doubt: (place) => void doubted.push(place),
      onUnreachable: (listener) => {
        found = listener
      },
    },
    now: () => time,
  })
  found('https://a.example')
  assert.equal(told.length, 16)
  assert.ok(told.every(({ to }) => to !== 'n0'))
  time = 4999
  found('https://a.example')
  assert.equal(told.length, 16)
  found('https://b.example')
  assert.equal(told.length, 32)
  time = 5000
  found('https://a.example')
  assert.equal(told.length, 48)

  const { signal } = new AbortController()
  const hear = (body: unknown) => handlers.get('upstream.out')!('n1', body, signal)
  for (const body of [told[0]!.body, undefined, 7, { origin: 7 }, { origin: 'x'.repeat(301) }])
    await hear(body)
  assert.deepEqual(doubted, ['https://a.example'])
})
