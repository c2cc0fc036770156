import assert from 'node:assert/strict'
import { PassThrough } from 'node:stream'
import { test } from 'node:test'
import type { ScrubStatus } from '../../cli/api/index.ts'
import { createScrubProgress, scrubLine } from '../../cli/scrub-progress.ts'

const MIB = 2 ** 20
const half: ScrubStatus = { state: 'running', blocks: 5, bytes: 5 * MIB, total: 10 * MIB, bad: 2 }

test('a line of a scrub fits in every terminal', () => {
  assert.equal(
    scrubLine(half, 80),
    '[====================>                   ] 5.00 MiB / 10.0 MiB (50 %), 2 bad',
  )
  for (let columns = 1; columns < 120; columns++) assert.ok(scrubLine(half, columns).length < columns)
  assert.match(scrubLine({ ...half, bytes: 0, total: 0, bad: 0 }, 80), /^\[=+\] 0 B \/ 0 B \(-\)$/)
})

test('a terminal is redrawn at most ten times a second, a pipe gets a line every five seconds', () => {
  let time = 0
  for (const [isTTY, every] of [
    [true, 100],
    [false, 5000],
  ] as const) {
    time = 0
    const err = Object.assign(new PassThrough(), { isTTY, columns: 80 })
    const progress = createScrubProgress(err, () => time)
    for (; time < 20_000; time += 50) progress.update(half)
    progress.end()
    const lines = String(err.read()).split(isTTY ? '\r' : '\n').length - 1
    assert.ok(Math.abs(lines - 20_000 / every) <= 1, `${lines}`)
  }
})
