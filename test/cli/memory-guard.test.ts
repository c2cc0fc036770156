import assert from 'node:assert/strict'
import { test } from 'node:test'
import { startMemoryGuard } from '../../cli/memory-guard.ts'

const MIB = 2 ** 20

function guarded(t: { after(f: () => void): void }, free: { minor: number; major: number }) {
  let outside = 0
  const collected: string[] = []
  const guard = startMemoryGuard({
    collect({ type }) {
      collected.push(type)
      outside -= free[type] * MIB
    },
    outside: () => outside,
  })
  t.after(guard.stop)
  /** The collections that so many MiB lead to. */
  return (mib: number): string => {
    outside = mib * MIB
    guard.check()
    return collected.splice(0).join(' ')
  }
}

const YOUNG = 'minor minor'
const ALL = 'minor minor major'

test('collects when buffers have gathered, and not again before as many gathered anew', (t) => {
  const at = guarded(t, { minor: 10, major: 0 })
  assert.equal(at(15), '', 'a daemon at work')
  assert.equal(at(30), YOUNG)
  assert.equal(at(15), '')
  assert.equal(at(40), YOUNG, 'down to 20, which are in use')
  assert.equal(at(23), '')
  assert.equal(at(24), YOUNG)
  assert.equal(at(5), '')
  assert.equal(at(16), YOUNG, 'after a pause the count begins anew')
})

test('old objects are collected only where buffers gathered that young ones do not hold', (t) => {
  const at = guarded(t, { minor: 1, major: 10 })
  assert.equal(at(24), YOUNG)
  assert.equal(at(50), ALL, 'down to 38, which are in use')
  assert.equal(at(41), '')
  assert.equal(at(44), YOUNG)
  assert.equal(at(45), '')
  assert.equal(at(51), ALL)
})

test('without gc it does nothing', (t) => {
  const guard = startMemoryGuard({ collect: undefined, outside: () => 2 ** 40 })
  t.after(guard.stop)
  guard.check()
})
