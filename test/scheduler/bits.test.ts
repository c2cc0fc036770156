import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  bitfield,
  bitIndexes,
  clearBit,
  countBits,
  fullBitfield,
  hasBit,
  offersBits,
  rendezvous,
  setBit,
} from '../../scheduler/index.ts'
import { fieldOf, span } from './helpers.ts'

const indexes = fc.uniqueArray(fc.nat({ max: 200 }))

test('bit i is in byte i >> 3, least significant first', () => {
  const field = bitfield(17)
  assert.equal(field.length, 3)
  setBit(field, 0)
  setBit(field, 9)
  assert.deepEqual([...field], [1, 2, 0])
})

test('a bitfield is a set of indexes', () => {
  fc.assert(
    fc.property(indexes, indexes, (put, taken) => {
      const field = bitfield(201)
      for (const index of put) assert.equal(setBit(field, index), true)
      for (const index of put) assert.equal(setBit(field, index), false)
      for (const index of taken) assert.equal(clearBit(field, index), put.includes(index))
      const left = put.filter((index) => !taken.includes(index)).sort((a, b) => a - b)
      assert.deepEqual(bitIndexes(field), left)
      assert.equal(countBits(field), left.length)
      for (const index of span(0, 201)) assert.equal(hasBit(field, index), left.includes(index))
    }),
  )
})

test('bits past the end are clear and stay so', () => {
  const field = bitfield(8)
  assert.equal(setBit(field, 8), false)
  assert.equal(hasBit(field, 8), false)
  assert.equal(clearBit(field, 1e9), false)
  assert.equal(hasBit(field, 2 ** 40), false)
})

test('a full field has its spare bits clear', () => {
  for (const bits of [0, 1, 7, 8, 9, 64, 65]) assert.equal(countBits(fullBitfield(bits)), bits)
})

test('offersBits compares fields of different lengths', () => {
  fc.assert(
    fc.property(indexes, indexes, (a, b) => {
      const offers = a.some((index) => !b.includes(index))
      const long = fieldOf(201, a)
      const short = fieldOf(Math.max(0, ...b.map((index) => index + 1)), b)
      assert.equal(offersBits(long, short), offers)
    }),
  )
})

const ids = span(0, 40).map((i) => `12D3KooW${i}`)

test('rendezvous order does not depend on the order of the nodes', () => {
  fc.assert(
    fc.property(fc.string(), fc.shuffledSubarray(ids, { minLength: 40 }), (key, shuffled) => {
      assert.deepEqual(rendezvous(key, shuffled), rendezvous(key, ids))
    }),
  )
})

test('a node that goes moves only its own keys', () => {
  for (let key = 0; key < 300; key++) {
    const before = rendezvous(`sha256:${key}`, ids)
    const after = rendezvous(
      `sha256:${key}`,
      ids.filter((id) => id !== before[0]),
    )
    assert.deepEqual(after, before.slice(1))
  }
})

test('keys spread evenly over the nodes', () => {
  const counts = new Map<string, number>()
  for (let key = 0; key < 8000; key++) {
    const first = rendezvous(`sha256:${key}`, ids)[0]!
    counts.set(first, (counts.get(first) ?? 0) + 1)
  }
  for (const id of ids) {
    const count = counts.get(id) ?? 0
    assert.ok(count > 130 && count < 280, `${id} has ${count} of 8000 keys`)
  }
})

test('rendezvous order is fixed: nodes of different versions must agree', () => {
  const named = ['12D3KooWA', '12D3KooWB', '12D3KooWC']
  assert.deepEqual(rendezvous('sha256:1', named), ['12D3KooWC', '12D3KooWA', '12D3KooWB'])
  assert.deepEqual(rendezvous('x', []), [])
})
