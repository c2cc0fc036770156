import assert from 'node:assert/strict'
import { test } from 'node:test'
import { startMemoryGuard } from '../../cli/memory-guard.ts'

const MIB = 2 ** 20

test('collects when buffers have gathered, and not again before as many gathered anew', (t) => {
  let outside = 0
  let collected = 0
  const guard = startMemoryGuard({
    collect() {
      collected++
      outside -= 10 * MIB
    },
    outside: () => outside,
  })
  t.after(guard.stop)
  const at = (mib: number): number => {
    outside = mib * MIB
    guard.check()
    return collected
  }
  assert.equal(at(20), 0, 'a daemon at work')
  assert.equal(at(30), 1)
  assert.equal(at(27), 1)
  assert.equal(at(45), 2, 'down to 35, which are in use')
  assert.equal(at(46), 2)
  assert.equal(at(48), 3)
  assert.equal(at(5), 3)
  assert.equal(at(29), 4, 'after a pause the count begins anew')
})

test('without gc it does nothing', (t) => {
  const guard = startMemoryGuard({ collect: undefined, outside: () => 2 ** 40 })
  t.after(guard.stop)
  guard.check()
})
