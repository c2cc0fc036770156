import assert from 'node:assert/strict'
import { PassThrough } from 'node:stream'
import { test } from 'node:test'
import fc from 'fast-check'
import type { PullBlob, PullStatus } from '../../cli/api/index.ts'
import { addToArray, removeFromArray } from '../../cli/mirror/json-text.ts'
import { blobLine, createProgress, pullLines } from '../../cli/progress.ts'
import { digest } from './standins.ts'

function blob(seed: string, over: Partial<PullBlob> = {}): PullBlob {
  return {
    digest: digest(seed),
    kind: 'layer',
    size: 40 * 2 ** 20,
    bytesHere: 20 * 2 ** 20,
    state: 'running',
    sources: { local: 0, peers: 15, upstream: 5 },
    ...over,
  }
}

function pull(blobs: PullBlob[]): PullStatus {
  const sources = { local: 0, peers: 0, upstream: 0 }
  return { id: 'x', reference: 'r', state: 'running', startedAt: 0, blobs, bytesHere: 1, size: 2, sources }
}

test('a line has the bar where there is room, and never more than the terminal is wide', () => {
  const wide = blobLine(blob('a'), 120)
  assert.match(
    wide,
    /^sha256:\w{12} layer +\[={16,20}> {10,20}\] +20\.0 MiB \/ 40\.0 MiB {2}peers 75 % upstream 25 %$/,
  )
  assert.doesNotMatch(blobLine(blob('a'), 70), /\[/)
  for (let columns = 1; columns < 200; columns++) {
    assert.ok(blobLine(blob('a'), columns).length < columns)
    for (const line of pullLines(pull([blob('a'), blob('b')]), columns, 5)) assert.ok(line.length < columns)
  }
  assert.match(blobLine(blob('a', { state: 'waiting', bytesHere: 0 }), 120), /waiting$/)
  const { size: _, ...unknown } = blob('a')
  assert.match(blobLine(unknown, 120), / 20\.0 MiB {2}peers/)
})

test('of many blobs those that move are shown, and the lines fit the terminal', () => {
  const blobs = Array.from({ length: 50 }, (_, i) => blob(`${i}`, { state: i === 40 ? 'running' : 'done' }))
  const lines = pullLines(pull(blobs), 100, 10)
  assert.equal(lines.length, 8)
  assert.ok(lines.some((line) => line.includes(digest('40').slice(0, 19))))
  assert.equal(lines.at(-2), 'and 44 more')
})

test('on a terminal each drawing covers the one before', () => {
  const err = Object.assign(new PassThrough(), { isTTY: true, columns: 80, rows: 24 })
  let now = 0
  const progress = createProgress(err, () => now)
  progress.update(pull([blob('a'), blob('b')]))
  now = 50
  progress.update(pull([blob('a'), blob('b'), blob('c')]))
  now = 200
  progress.update(pull([blob('a')]))
  progress.end()
  const text = String(err.read())
  const esc = '\x1b'
  const ups = [...text.matchAll(new RegExp(`${esc}\\[(\\d+)A`, 'g'))].map(([, count]) => Number(count))
  assert.deepEqual(ups, [3, 2], 'the second update came too soon to be drawn')
})

test('without a terminal there are no control characters, and each end is told once', () => {
  const err = new PassThrough()
  let now = 0
  const progress = createProgress(err, () => now)
  for (let i = 0; i < 3; i++) {
    now += 4000
    progress.update(pull([blob('a', { state: 'done' }), blob('b')]))
  }
  progress.end()
  const lines = String(err.read()).trim().split('\n')
  assert.equal(lines.length, 2, lines.join('|'))
  assert.match(lines[0]!, /^sha256:\w{12} layer 40\.0 MiB peers 75 % upstream 25 %$/)
  assert.equal(lines[1], '1 B of 2 B (50 %)')
})

test('any daemon.json: adding puts it first and touches nothing else, removing gives the rest back', () => {
  const key = fc.string({ minLength: 1 }).filter((name) => name !== 'list' && name !== '__proto__')
  const object = fc.dictionary(key, fc.jsonValue(), { maxKeys: 4 })
  const items = fc.option(
    fc.uniqueArray(
      fc.string().filter((item) => item !== 'ours'),
      { maxLength: 3 },
    ),
    { nil: undefined },
  )
  const indent = fc.constantFrom(undefined, 1, 2, 4, '\t')
  fc.assert(
    fc.property(object, items, indent, (rest, list, spaces) => {
      const text = JSON.stringify(list === undefined ? rest : { list, ...rest }, undefined, spaces)
      const before = JSON.parse(text) // what the text says: JSON has no -0
      const added = addToArray(text, 'list', 'ours', 'f')
      assert.deepEqual(JSON.parse(added), { ...before, list: ['ours', ...(list ?? [])] })
      assert.equal(addToArray(added, 'list', 'ours', 'f'), added)
      const removed = JSON.parse(removeFromArray(added, 'list', 'ours', 'f'))
      const { list: _, ...without } = before
      assert.deepEqual(removed, list?.length ? before : without)
    }),
    { numRuns: 300 },
  )
})
