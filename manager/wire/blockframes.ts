import { ShoalError } from '../../base/index.ts'
import type { Priority } from '../types.ts'

/*
 * Frames of /shoal/blocks/1: a header of twelve bytes, big-endian, then a body.
 *
 *   0  u8   type
 *   1  u8   flag
 *   2  u16  zero
 *   4  u32  id of the request, chosen by the asker, unique on the stream while in use
 *   8  u32  length
 */
export const HEADER = 12
export const HASH_BYTES = 32

/** Largest block that can be asked for. */
export const MAX_BLOCK = 16 * 1024 * 1024
/** Up to this size a block counts as small: answered before large ones. */
export const SMALL = 64 * 1024
/** Largest part of a block in one frame. */
export const MAX_CHUNK = 1024 * 1024

export const FRAME = {
  /** Asker: flag 0 client, 1 preheat; length of the block; body: the 32 bytes of its hash. */
  ASK: 1,
  /** Asker: not wanted any more; flag and length 0; no body. */
  CANCEL: 2,
  /** Answerer: the block's next bytes; flag 0; length of the body; body. */
  DATA: 3,
  /** Answerer: nothing more follows for this id; flag is the reason; length 0; no body. Not sent after a whole block. */
  END: 4,
} as const

/** Why an answer ends without the whole block. */
export const END = { MISSING: 1, BUSY: 2, FAILED: 3, CANCELLED: 4 } as const
export type EndReason = (typeof END)[keyof typeof END]

export interface Header {
  type: number
  flag: number
  id: number
  length: number
}

/** @throws ShoalError PROTOCOL when the reserved bytes are not zero */
export function readHeader(bytes: Buffer): Header {
  if (bytes.readUInt16BE(2) !== 0) throw new ShoalError('PROTOCOL', 'a block frame with unknown fields')
  return {
    type: bytes[0] as number,
    flag: bytes[1] as number,
    id: bytes.readUInt32BE(4),
    length: bytes.readUInt32BE(8),
  }
}

function writeHeader(target: Buffer, type: number, flag: number, id: number, length: number): Buffer {
  target[0] = type
  target[1] = flag
  target.writeUInt16BE(0, 2)
  target.writeUInt32BE(id, 4)
  target.writeUInt32BE(length, 8)
  return target
}

export function askFrame(id: number, priority: Priority, length: number, hash: Uint8Array): Buffer {
  const frame = Buffer.allocUnsafe(HEADER + HASH_BYTES)
  frame.set(hash, HEADER)
  return writeHeader(frame, FRAME.ASK, priority === 'client' ? 0 : 1, id, length)
}

export function cancelFrame(id: number): Buffer {
  return writeHeader(Buffer.allocUnsafe(HEADER), FRAME.CANCEL, 0, id, 0)
}

export function endFrame(id: number, reason: EndReason): Buffer {
  return writeHeader(Buffer.allocUnsafe(HEADER), FRAME.END, reason, id, 0)
}

/**
 * Header and payload in one buffer of its own. The copy costs a few percent and buys two things: the stream needs one write
 * and not two, and the block's buffer can be used again although the stream may still hold what it was given.
 */
export function dataFrame(id: number, block: Buffer, start: number, length: number): Buffer {
  const frame = Buffer.allocUnsafeSlow(HEADER + length)
  block.copy(frame, HEADER, start, start + length)
  return writeHeader(frame, FRAME.DATA, 0, id, length)
}
