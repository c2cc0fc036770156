import { ShoalError } from '../../../base/index.ts'
import type { Member, PeerId } from '../../types.ts'
import { parsePeerId, parsePeerIds, parseRecords, parseStamps, type Stamp, toRecord } from './record.ts'

/** The RPC method of all membership messages. */
export const METHOD = 'swim'

export type Request =
  /** Are you there? With news, and the digest of the sender's table. */
  | { kind: 'ping'; digest: string; news: Member[] }
  /** Can you reach `peer`? */
  | { kind: 'reach'; peer: PeerId; news: Member[] }
  /** What I know, in short, and my own record: tell me what is newer, and what you lack. */
  | { kind: 'sync'; stamps: Stamp[]; news: Member[] }
  | { kind: 'news'; news: Member[] }

export interface Reply {
  news: Member[]
  /** Of the answering table, after the request's news were taken in. */
  digest?: string
  /** To `reach`. */
  reached?: boolean
  /** To `sync`: whose records the answering node lacks. */
  wanted?: PeerId[]
}

export function encodeRequest(request: Request): object {
  const u = request.news.map(toRecord)
  switch (request.kind) {
    case 'ping':
      return { k: 'ping', d: request.digest, u }
    case 'reach':
      return { k: 'reach', p: request.peer, u }
    case 'sync':
      return { k: 'sync', v: request.stamps, u }
    case 'news':
      return { k: 'news', u }
  }
}

/** @throws PROTOCOL */
export function decodeRequest(body: unknown): Request {
  const fields = object(body)
  const news = parseRecords(fields.u)
  switch (fields.k) {
    case 'ping':
      return { kind: 'ping', digest: String(fields.d), news }
    case 'reach':
      return { kind: 'reach', peer: parsePeerId(fields.p), news }
    case 'sync':
      return { kind: 'sync', stamps: parseStamps(fields.v), news }
    case 'news':
      return { kind: 'news', news }
    default:
      throw new ShoalError('PROTOCOL', 'malformed membership message: unknown kind')
  }
}

export function encodeReply({ news, digest, reached, wanted }: Reply): object {
  return {
    u: news.map(toRecord),
    ...(digest === undefined ? {} : { d: digest }),
    ...(reached === undefined ? {} : { ok: reached }),
    ...(wanted === undefined ? {} : { w: wanted }),
  }
}

/** @throws PROTOCOL */
export function decodeReply(body: unknown): Reply {
  const fields = object(body)
  const reply: Reply = { news: parseRecords(fields.u) }
  if (typeof fields.d === 'string') reply.digest = fields.d
  if (typeof fields.ok === 'boolean') reply.reached = fields.ok
  if (fields.w !== undefined) reply.wanted = parsePeerIds(fields.w)
  return reply
}

function object(value: unknown): Record<string, unknown> {
  if (typeof value === 'object' && value !== null) return value as Record<string, unknown>
  throw new ShoalError('PROTOCOL', 'malformed membership message: not an object')
}
