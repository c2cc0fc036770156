import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type { Digest } from '../../../base/index.ts'
import { type Contents, readFiles } from './tools.ts'
import { createTwin, type Twin } from './twin.ts'

const PAGE = 4096

/** A page that a small number names; 0 is zeros. */
function pageOf(seed: number): Buffer {
  const page = Buffer.alloc(PAGE)
  for (let i = 0; seed > 0 && i < PAGE; i += 4) page.writeUInt32LE(Math.imul(seed, 2654435761 + i) >>> 0, i)
  return page
}

const memory = (seeds: readonly number[], tail = 0): Buffer =>
  Buffer.concat([...seeds.map(pageOf), Buffer.alloc(tail, 7)])

/** What happens to a file between two dumps. */
const edits = fc.array(
  fc.oneof(
    fc.record({ kind: fc.constant('set' as const), at: fc.nat(400), seed: fc.nat(300) }),
    fc.record({
      kind: fc.constant('insert' as const),
      at: fc.nat(400),
      count: fc.integer({ min: 1, max: 80 }),
      seed: fc.nat(300),
    }),
    fc.record({
      kind: fc.constant('remove' as const),
      at: fc.nat(400),
      count: fc.integer({ min: 1, max: 80 }),
    }),
    fc.record({
      kind: fc.constant('swap' as const),
      at: fc.nat(400),
      to: fc.nat(400),
      count: fc.integer({ min: 1, max: 60 }),
    }),
    fc.record({
      kind: fc.constant('shift' as const),
      at: fc.nat(400),
      bytes: fc.integer({ min: 1, max: 5000 }),
    }),
  ),
  { maxLength: 6 },
)
type Edit = typeof edits extends fc.Arbitrary<(infer T)[]> ? T : never

function edit(file: Buffer, change: Edit): Buffer {
  const at = Math.min(change.at * PAGE, file.length)
  const [before, after] = [file.subarray(0, at), file.subarray(at)]
  switch (change.kind) {
    case 'set':
      return Buffer.concat([before, pageOf(change.seed), after.subarray(PAGE)])
    case 'insert':
      return Buffer.concat([
        before,
        memory(Array.from({ length: change.count }, (_, i) => change.seed + i)),
        after,
      ])
    case 'remove':
      return Buffer.concat([before, after.subarray(change.count * PAGE)])
    case 'swap': {
      const to = Math.min(change.to * PAGE, file.length)
      const moved = file.subarray(to, to + change.count * PAGE)
      return Buffer.concat([before, moved, after])
    }
    case 'shift':
      return Buffer.concat([before, Buffer.alloc(change.bytes, 3), after])
  }
}

async function check(twin: Twin, versions: readonly Contents[], cold: readonly boolean[], root: string) {
  const captured: Digest[] = []
  const moving = join(root, 'moving')
  for (const [index, contents] of versions.entries()) {
    if (cold[index]) twin.restart()
    const { recipe } = await twin.capture(contents, captured.at(-1))
    await twin.assemble(recipe, moving, captured.at(-1))
    assert.deepEqual(readFiles(moving), contents, `version ${index} over the one before`)
    captured.push(recipe)
  }
  for (const index of [0, versions.length - 1]) {
    const fresh = join(root, `fresh${index}`)
    await twin.assemble(captured[index]!, fresh)
    assert.deepEqual(readFiles(fresh), versions[index])
  }
  // And back, which no migration does.
  await twin.assemble(captured[0]!, moving, captured.at(-1))
  assert.deepEqual(readFiles(moving), versions[0])
}

describe('versions of a state', () => {
  test('are assembled as they were, from nothing and over others', async () => {
    const file = fc.record({
      seeds: fc.array(fc.nat(300), { maxLength: 400 }),
      tail: fc.oneof(fc.constant(0), fc.nat(PAGE - 1)),
      edits: fc.array(edits, { minLength: 3, maxLength: 3 }),
    })
    const run = fc.record({
      large: file,
      small: fc.array(fc.record({ there: fc.boolean(), size: fc.nat(6000), fill: fc.nat(3) }), {
        minLength: 4,
        maxLength: 4,
      }),
      cold: fc.array(fc.boolean(), { minLength: 4, maxLength: 4 }),
      from: fc.nat(100_000),
      length: fc.nat(1_000_000),
    })
    await fc.assert(
      fc.asyncProperty(run, async ({ large, small, cold, from, length }) => {
        const root = mkdtempSync(join(tmpdir(), 'shoal-states-'))
        try {
          let bytes = Buffer.concat([
            memory(Array.from({ length: 300 }, (_, i) => i + 1)),
            memory(large.seeds, large.tail),
          ])
          const versions = [0, 1, 2, 3].map((index): Contents => {
            if (index > 0)
              for (const change of large.edits[index - 1]!) bytes = edit(bytes, change) as typeof bytes
            const { there, size, fill } = small[index]!
            return { 'criu/pages-1.img': bytes, ...(there ? { 'criu/a.img': Buffer.alloc(size, fill) } : {}) }
          })
          const twin = createTwin(root)
          await check(twin, versions, cold, root)
          const { recipe } = await twin.capture(versions[3]!)
          assert.deepEqual(
            await twin.read(recipe, 'criu/pages-1.img', from, from + length),
            bytes.subarray(from, from + length),
          )
        } finally {
          rmSync(root, { recursive: true, force: true })
        }
      }),
      { numRuns: 25 },
    )
  })
})
