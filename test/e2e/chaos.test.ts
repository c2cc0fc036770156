import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import type { Lab, Site } from '../lab/index.ts'
import { chaosRound, chaosSite } from './chaos.ts'
import { explained, lacking } from './support.ts'

/** A short round; `node test/e2e/chaos.ts --seed N --rounds 20` goes on for longer. */
describe('nodes are killed at random moments', { skip: lacking() }, () => {
  let lab: Lab
  let site: Site

  before(async () => {
    ;({ lab, site } = await chaosSite(4))
  })
  after(() => lab?.destroy())

  test('what was acknowledged is whole on every node, even when one of them dies for good', (t) =>
    explained(
      () => site,
      async () => {
        const say = (line: string): void => t.diagnostic(line)
        const chaos = await chaosRound({ lab, site, seed: 1, ms: 12_000, say })
        assert.ok(chaos.kills > 0 && chaos.acknowledged.length > 0)
      },
    ))
})
