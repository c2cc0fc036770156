import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { openPart, SEALED_EXTRA, sealPart } from '../../../integration/state/form/seal.ts'

test('a sealed part opens with its key only, and not when it was changed', () => {
  const key = randomBytes(32)
  for (const plain of [Buffer.alloc(0), Buffer.from('memory'), randomBytes(65_536)]) {
    const sealed = sealPart(key, plain)
    assert.equal(sealed.length, plain.length + SEALED_EXTRA)
    assert.deepEqual(openPart(key, sealed), plain)
    assert.notDeepEqual(sealPart(key, plain), sealed)
    assert.throws(() => openPart(randomBytes(32), sealed), { code: 'DENIED' })
    for (const at of [0, 13, sealed.length - 1]) {
      const changed = Buffer.from(sealed)
      changed[Math.min(at, changed.length - 1)]! ^= 1
      assert.throws(() => openPart(key, changed), { code: 'DENIED' })
    }
    assert.throws(() => openPart(key, sealed.subarray(0, 20)), { code: 'DENIED' })
  }
})
