import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'
import fc from 'fast-check'
import { CID } from 'multiformats/cid'
import * as raw from 'multiformats/codecs/raw'
import { sha256 } from 'multiformats/hashes/sha2'
import { cidOf, cidOfHash, hashOfCid, isCid } from '../../blockstore/index.ts'

test('a CID is what multiformats makes of the bytes, and leads back to their hash', async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 300 }), async (bytes) => {
      const expected = CID.createV1(raw.code, await sha256.digest(bytes)).toString()
      const hash = createHash('sha256').update(bytes).digest()
      assert.equal(cidOf(bytes), expected)
      assert.equal(cidOfHash(hash), expected)
      assert.deepEqual(hashOfCid(expected), hash)
      assert.ok(isCid(expected))
    }),
  )
})

test('only the canonical text of a raw sha2-256 CID counts as one', () => {
  const cid = cidOf(Buffer.from('x'))
  const others = [
    '',
    'bafkrei',
    `${cid}a`,
    cid.slice(0, -1),
    cid.toUpperCase(),
    ` ${cid}`,
    `${cid}\n`,
    cid.replace('bafkrei', 'bafybei'),
    // Padding bits that are not zero: the same hash in another spelling.
    `${cid.slice(0, -1)}b`,
    `bafkrei${'../'.repeat(17)}a`,
    undefined,
    7,
  ]
  for (const other of others) assert.equal(isCid(other), false, String(other))
  assert.throws(() => hashOfCid('bafkrei'), { code: 'DIGEST_INVALID' })
  assert.throws(() => cidOfHash(new Uint8Array(31)), { code: 'DIGEST_INVALID' })
})
