import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createPulls } from '../../../integration/offload/containerd/pulls.ts'

const never = new AbortController().signal

function scripted() {
  const begun: { image: string; signal: AbortSignal; end: (error?: Error) => void }[] = []
  const pulls = createPulls((image, signal) => {
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    signal.addEventListener('abort', () => reject(signal.reason))
    begun.push({ image, signal, end: (error) => (error ? reject(error) : resolve()) })
    return promise
  })
  return { begun, pulls }
}

test('an image that several want is pulled once; another one, or the same again later, anew', async () => {
  const { begun, pulls } = scripted()
  const all = [pulls.pull('a', never), pulls.pull('a', never), pulls.pull('b', never)]
  assert.deepEqual(
    begun.map(({ image }) => image),
    ['a', 'b'],
  )
  for (const { end } of begun) end()
  await Promise.all(all)

  const again = pulls.pull('a', never)
  assert.equal(begun.length, 3)
  begun[2]!.end(new Error('no such image'))
  await assert.rejects(again, /no such image/)
})

test('who gives up leaves it to the others; the last one ends it, and who comes then begins anew', async () => {
  const { begun, pulls } = scripted()
  const [first, second] = [new AbortController(), new AbortController()]
  const one = pulls.pull('a', first.signal)
  const other = pulls.pull('a', second.signal)
  first.abort(new Error('not I'))
  await assert.rejects(one, /not I/)
  assert.equal(begun[0]!.signal.aborted, false)
  second.abort(new Error('nor I'))
  await assert.rejects(other, /nor I/)
  assert.equal(begun[0]!.signal.aborted, true)

  const later = pulls.pull('a', never)
  begun[1]!.end()
  await later
  await assert.rejects(pulls.pull('a', AbortSignal.abort(new Error('too late'))), /too late/)
  assert.equal(begun.length, 2)
})
