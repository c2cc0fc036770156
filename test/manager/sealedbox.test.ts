import assert from 'node:assert/strict'
import { createPublicKey, generateKeyPairSync } from 'node:crypto'
import { test } from 'node:test'
import { createIdentity } from '../../manager/network/identity.ts'
import { sealFor } from '../../manager/network/sealedbox.ts'

const secret = Buffer.from('a key of thirty-two bytes, or so')
const identity = (): ReturnType<typeof createIdentity> =>
  createIdentity(generateKeyPairSync('ed25519').privateKey)

test('only the peer that it is sealed for opens it, for the same purpose, unchanged', () => {
  for (let round = 0; round < 20; round++) {
    const a = identity()
    const b = identity()
    const sealed = a.seal(b.peerId, secret, 'checkpoint')
    assert.deepEqual(b.open(sealed, 'checkpoint'), secret)
    assert.equal(a.open(sealed, 'checkpoint'), undefined)
    assert.equal(b.open(sealed, 'something else'), undefined)
    for (const at of [0, 40, sealed.length - 1]) {
      const changed = Buffer.from(sealed)
      changed[at]! ^= 1
      assert.equal(b.open(changed, 'checkpoint'), undefined)
    }
    assert.equal(b.open(sealed.subarray(0, 30), 'checkpoint'), undefined)
    assert.notDeepEqual(a.seal(b.peerId, secret, 'checkpoint'), sealed)
  }
})

test('who is no node cannot be sealed for', () => {
  assert.throws(() => identity().seal('nobody', secret, 'x'), { code: 'NAME_INVALID' })
})

test('a public key of low order gives no secret that others know', () => {
  const { publicKey } = generateKeyPairSync('ed25519')
  const raw = createPublicKey(publicKey.export({ format: 'pem', type: 'spki' }))
    .export({ format: 'der', type: 'spki' })
    .subarray(-32)
  assert.equal(sealFor(raw, secret, '').length, 32 + secret.length + 16)
  // y = 1 is the neutral element: its u is 0, and X25519 with it is all zeros, which node:crypto refuses.
  const neutral = Buffer.alloc(32)
  neutral[0] = 1
  assert.throws(() => sealFor(neutral, secret, ''))
})
