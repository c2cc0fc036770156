import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { parseJson } from '../../proxy/registry/json.ts'

test('JSON from outside is read as ever', () => {
  fc.assert(
    fc.property(fc.json(), (text) => assert.deepEqual(parseJson(Buffer.from(text)), JSON.parse(text))),
  )
  assert.throws(() => parseJson(Buffer.from('{')), SyntaxError)
})

test('but not when it has more values than memory has room for', () => {
  const list = (value: string, count: number) => Buffer.from(`[${Array(count).fill(value).join()}]`)
  for (const value of ['[]', '{}', '0', '""', '"\\\\"']) {
    assert.throws(() => parseJson(list(value, 200_000)), RangeError, value)
  }
  assert.throws(() => parseJson(Buffer.from('['.repeat(2e6) + ']'.repeat(2e6))), RangeError)
  // What stands in texts does not count.
  const text = ',[{\\",'.repeat(100_000)
  assert.equal((parseJson(Buffer.from(`["${text}"]`)) as string[])[0]?.length, 500_000)
  assert.equal((parseJson(list('0', 90_000)) as unknown[]).length, 90_000)
})
