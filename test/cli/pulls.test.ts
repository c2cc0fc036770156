import assert from 'node:assert/strict'
import { test } from 'node:test'
import { silentLog } from '../../base/index.ts'
import { createPulls } from '../../cli/api/pulls.ts'
import { standInPull, standInStore } from './standins.ts'

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

test('a pull that the daemon did not finish is taken up by the next, one that ended or was cancelled is not', async () => {
  const wanted = standInStore().records<{ reference: string; platform?: string }>('pulls')
  const first = standInPull()
  const before = createPulls({ pull: first.pull, wanted, log: silentLog() })
  before.start({ reference: 'a:1' })
  before.start({ reference: 'b:1', platform: 'linux/arm64' })
  const cancelled = before.start({ reference: 'c:1' })
  await turn()
  first.gates[0]!.go()
  before.cancel(cancelled.id)
  await turn()
  await before.close()

  const second = standInPull()
  const after = createPulls({ pull: second.pull, wanted, log: silentLog() })
  await after.resume()
  await turn()
  assert.deepEqual(
    after.list().map(({ reference, platform, state }) => ({ reference, platform, state })),
    [{ reference: 'b:1', platform: 'linux/arm64', state: 'running' }],
  )
  second.gates[0]!.go()
  await turn()
  const third = createPulls({ pull: standInPull().pull, wanted, log: silentLog() })
  await third.resume()
  assert.deepEqual(third.list(), [])
})
