import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { closeSync, ftruncateSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { constants, zstdCompressSync } from 'node:zlib'
import type { Digest } from '../../../base/index.ts'
import { packFrame } from '../../../integration/state/form/frames.ts'
import { FRAME } from '../../../integration/state/form/limits.ts'
import type { Pack } from '../../../integration/state/form/recipe.ts'
import type { Job } from '../../../integration/state/work/job.ts'
import { type Batch, createAddresses, inOrder } from '../../../integration/state/work/order.ts'
import { createParts } from '../../../integration/state/work/parts.ts'
import { createPlacing } from '../../../integration/state/work/placing.ts'
import type { Plan } from '../../../integration/state/work/plan.ts'
import { createUnpacker } from '../../../integration/state/work/unpacker.ts'

const PAGE = 4096

/** Files of these sizes, made of zeros. */
function filesOf(t: { after(done: () => void): void }, sizes: number[]) {
  const dir = mkdtempSync(join(tmpdir(), 'shoal-placing-'))
  const fds = sizes.map((size, i) => {
    const fd = openSync(join(dir, `${i}`), 'w+')
    ftruncateSync(fd, size)
    return fd
  })
  t.after(() => {
    for (const fd of fds) closeSync(fd)
    rmSync(dir, { recursive: true, force: true })
  })
  return {
    fdOf: (file: number) => fds[file]!,
    read: () => sizes.map((_, i) => readFileSync(join(dir, `${i}`))),
  }
}

describe('placing', () => {
  test('makes up files of pieces that come nearly in their order, or not at all', (t) => {
    const sizes = [5 * PAGE + 100, 0, 40 * 2 ** 20, 512, 9 * 2 ** 20 + 513, PAGE]
    const contents = sizes.map((size) => randomBytes(size))
    const { fdOf, read } = filesOf(t, sizes)
    const addresses = createAddresses(sizes)
    const placing = createPlacing({ addresses, fdOf })
    const pieces = sizes.flatMap((size, file) => {
      const cut: { file: number; offset: number; length: number; key: number }[] = []
      // Pages, runs of them, and what begins anywhere, as in a tar.
      const lengths = [PAGE, PAGE, 3 * PAGE, 16 * PAGE, 20 * PAGE, ...(file === 4 ? [512, 1000] : [])]
      for (let offset = 0, i = 0; offset < size; i++) {
        const length = Math.min(lengths[i % lengths.length]!, size - offset)
        const ahead = i % 97 === 0 ? 20 * 2 ** 20 : (i % 13) * 2 ** 18
        cut.push({ file, offset, length, key: addresses.of(file, offset) - ahead })
        offset += length
      }
      return cut
    })
    pieces.sort((a, b) => a.key - b.key)
    // Of all that is still to come, the lowest address.
    const lowest = pieces.map(({ file, offset }) => addresses.of(file, offset))
    for (let i = lowest.length - 2; i >= 0; i--) lowest[i] = Math.min(lowest[i]!, lowest[i + 1]!)
    for (const [i, { file, offset, length }] of pieces.entries()) {
      placing.advance(lowest[i]!)
      placing.put(file, offset, contents[file]!, offset, offset + length)
    }
    placing.finish()
    assert.deepEqual(read(), contents)
    assert.equal(
      placing.written,
      sizes.reduce((a, b) => a + b, 0),
    )
  })

  test('takes every frame once, by the first of its pages', () => {
    const plan = {
      files: [],
      gone: [],
      needs: new Map([
        [
          0,
          [
            { page: 70, file: 0, offset: 2 * PAGE, length: PAGE },
            { page: 3, file: 1, offset: 0, length: PAGE },
            { page: 1, file: 0, offset: 3 * PAGE, length: PAGE },
          ],
        ],
        [4, [{ page: 9, file: 0, offset: 0, length: PAGE }]],
      ]),
    } satisfies Plan
    const batches = inOrder(plan, createAddresses([5 * PAGE, PAGE]))
    assert.deepEqual(
      batches.map(({ pack, frame, first, needs }) => [pack, frame, first, needs.length]),
      [
        [4, 0, 0, 1],
        [0, 1, 2 * PAGE, 1],
        [0, 0, 3 * PAGE, 2],
      ],
    )
  })
})

describe('parts of packs', () => {
  test('are had again when more packs are read in turn than are kept', async () => {
    const frames = [300_000, 100, 200_000, 262_144]
    const blobs = Array.from({ length: 100 }, () => frames.map((length) => randomBytes(length)))
    const packs = blobs.map(
      (_, i): Pack => ({ digest: `sha256:${i}` as Digest, pages: 256, frames: Uint32Array.from(frames) }),
    )
    let loads = 0
    let open = 0
    let most = 0
    const job: Pick<Job, 'check' | 'load'> = {
      check: () => {},
      async load(digest, start, end) {
        loads++
        most = Math.max(most, ++open)
        const bytes = Buffer.concat(blobs[Number(digest.slice(7))]!).subarray(start, end)
        assert.equal(Math.floor(start / 2 ** 20), Math.floor((end - 1) / 2 ** 20), 'it is within one block')
        return {
          copy: (into, at) => into.set(bytes.subarray(at - start, at - start + into.length)),
          drop: () => void open--,
        }
      },
    }
    const batches = frames.flatMap((_, frame) =>
      packs.map((_, pack): Batch => ({ pack, frame, needs: [], first: 0 })),
    )
    const parts = createParts({ job: job as Job, packs, batches, arrived: async () => {} })
    for (const [i, batch] of batches.entries()) {
      if (batches[i + 9]) parts.expect(batches[i + 9]!)
      const into = Buffer.alloc(frames[batch.frame]!)
      await parts.frame(batch, into)
      assert.deepEqual(into, blobs[batch.pack]![batch.frame])
    }
    await new Promise((resolve) => setImmediate(resolve))
    assert.equal(open, 0)
    assert.ok(most <= 66, `${most} parts at the same time`)
    assert.ok(loads > packs.length)
  })
})

describe('frames that are unpacked in a lane', () => {
  const frame = (length: number): Buffer => Buffer.from(randomBytes(length / 2).toString('hex'))
  const packed = (bytes: Buffer): Buffer => Buffer.from(packFrame(bytes, undefined))

  test('are what they were, whatever their lengths', async () => {
    const unpacker = createUnpacker({ lanes: 2, key: undefined })
    const lengths = [FRAME, 3 * PAGE, FRAME, FRAME, PAGE, 60 * PAGE, FRAME]
    for (const [i, length] of lengths.entries()) {
      const bytes = i === 3 ? randomBytes(length) : frame(length)
      assert.deepEqual(await unpacker.unpack(i % 2, packed(bytes), length), bytes)
    }
    unpacker.close()
  })

  /** Bytes whose frame of zstd has exactly so many: Node.js adds an empty frame to one that fills its buffer. */
  function thatPacksTo(length: number): Buffer {
    const bytes = Buffer.alloc(FRAME, 65)
    const size = (): number => zstdOf(bytes).length
    let left = 100_000
    const random = (below: number): number => {
      left = (left * 48271) % 2147483647
      return left % below
    }
    for (let now = size(); now !== length; now = size())
      for (let i = 0; i <= Math.abs(length - now) / 6; i++)
        bytes[random(FRAME)] = now < length ? random(256) : 65
    return bytes
  }
  const zstdOf = (bytes: Buffer): Buffer =>
    zstdCompressSync(bytes, { params: { [constants.ZSTD_c_compressionLevel]: 1 }, chunkSize: 2 * FRAME })

  test('are what they were where they fill a buffer to the last byte', async () => {
    const bytes = thatPacksTo(16 * 1024)
    assert.equal(packed(bytes).length, 16 * 1024)
    // As it was packed once.
    const followed = Buffer.concat([zstdOf(bytes), zstdCompressSync(Buffer.alloc(0))])
    for (const each of [packed(bytes), followed]) {
      const unpacker = createUnpacker({ lanes: 1, key: undefined })
      for (let i = 0; i < 2; i++) assert.deepEqual(await unpacker.unpack(0, each, FRAME), bytes)
      unpacker.close()
    }
  })

  const whole = frame(FRAME)
  const bad: Record<string, Buffer> = {
    'unpack to less': packed(frame(FRAME - PAGE)),
    'unpack to more': zstdCompressSync(frame(FRAME + PAGE)),
    'unpack to far more': zstdCompressSync(Buffer.alloc(64 * 2 ** 20)),
    'were cut short': packed(whole).subarray(0, 50_000),
    'are followed by something': Buffer.concat([packed(whole), Buffer.from('and this')]),
    'are followed by another one': Buffer.concat([packed(whole), packed(whole)]),
    'are none': randomBytes(1000),
  }
  for (const [what, bytes] of Object.entries(bad)) {
    test(`are refused when they ${what}`, async () => {
      const unpacker = createUnpacker({ lanes: 1, key: undefined })
      await unpacker.unpack(0, packed(whole), FRAME)
      const refused = { code: 'PROTOCOL' }
      try {
        // What follows a frame is seen at the latest by the one after it.
        await assert.rejects(async () => {
          await unpacker.unpack(0, bytes, FRAME)
          await unpacker.unpack(0, packed(whole), FRAME)
        }, refused)
      } finally {
        unpacker.close()
      }
    })
  }
})
