import { ShoalError } from '../../base/index.ts'
import type { TransportAnswer } from './transport.ts'
import { contentLength } from './transport.ts'

export interface AskedRange {
  start: number
  /** Exclusive; undefined: to the end. */
  end: number | undefined
}

/** What an answer's body is a part of. */
export interface Extent {
  start: number
  size: number | undefined
  ranged: boolean
  /** Bytes of the body, where upstream says so. */
  length: number | undefined
}

/** Undefined for the whole: some registries answer worse to `bytes=0-` than to no range at all. */
export function rangeHeader(range: AskedRange | undefined): string | undefined {
  if (!range || (range.start === 0 && range.end === undefined)) return undefined
  return `bytes=${range.start}-${range.end === undefined ? '' : range.end - 1}`
}

/** `bytes 0-99/1000`, RFC 9110 section 14.4; `last` inclusive. Undefined when it is anything else. */
export function parseContentRange(
  text: string | undefined,
): { first: number; last: number; size: number | undefined } | undefined {
  const match = /^bytes (\d{1,15})-(\d{1,15})\/(?:(\d{1,15})|\*)$/.exec(text ?? '')
  if (!match) return undefined
  const first = Number(match[1])
  const last = Number(match[2])
  const size = match[3] === undefined ? undefined : Number(match[3])
  return last < first || (size !== undefined && last >= size) ? undefined : { first, last, size }
}

/** The blob's size that a 416 tells in its `Content-Range`. */
export function unsatisfiedSize(text: string | undefined): number | undefined {
  const match = /^bytes \*\/(\d{1,15})$/.exec(text ?? '')
  return match ? Number(match[1]) : undefined
}

/**
 * What a 200 or 206 brings, held against what was asked. An answer that would put bytes in the wrong place is refused.
 * @throws UPSTREAM_STATUS
 */
export function extentOf(answer: TransportAnswer, asked: AskedRange | undefined, where: string): Extent {
  const length = contentLength(answer.headers)
  if (answer.status === 200) {
    return { start: 0, size: length, ranged: rangeHeader(asked) === undefined, length }
  }
  const text = answer.headers['content-range']
  const got = parseContentRange(text)
  const wrong =
    !got ||
    !asked ||
    got.first !== asked.start ||
    (asked.end !== undefined && got.last >= asked.end) ||
    (length !== undefined && length !== got.last - got.first + 1)
  if (wrong) {
    throw new ShoalError('UPSTREAM_STATUS', `${where} answered with another range than was asked`, {
      details: { status: answer.status, upstream: where, asked: rangeHeader(asked), contentRange: text },
    })
  }
  // A server may send less than was asked; the caller is owed the rest, so the body will count as truncated.
  const end = Math.min(asked.end ?? Number.POSITIVE_INFINITY, got.size ?? got.last + 1)
  return { start: got.first, size: got.size, ranged: true, length: end - got.first }
}
