import type { Response } from 'express'
import { type ErrorCode, isShoalError, ShoalError } from '../../base/index.ts'
import type { Problem } from './types.ts'

const ANSWERS: Partial<Record<ErrorCode, [status: number, title: string]>> = {
  ABORTED: [503, 'Aborted'],
  BUSY: [409, 'Busy'],
  CONFIG: [400, 'Bad configuration'],
  DENIED: [403, 'Denied'],
  DIGEST_INVALID: [400, 'Bad digest'],
  DIGEST_MISMATCH: [502, 'Digest mismatch'],
  NAME_INVALID: [400, 'Bad name'],
  NOT_FOUND: [404, 'Not found'],
  NO_DAEMON: [503, 'Not running'],
  NO_QUORUM: [503, 'Not enough copies'],
  PEER_GONE: [502, 'Peer gone'],
  PROTOCOL: [502, 'Protocol error'],
  RANGE_INVALID: [416, 'Bad range'],
  RUNTIME: [502, 'Runtime failed'],
  STORE_BROKEN: [500, 'Store broken'],
  STORE_FULL: [507, 'Store full'],
  TIMEOUT: [504, 'Timeout'],
  UNAUTHORIZED: [401, 'Unauthorized'],
  UNFIT: [409, 'Unfit'],
  UPSTREAM_STATUS: [502, 'Upstream refused'],
  UPSTREAM_UNREACHABLE: [502, 'Upstream unreachable'],
  USAGE: [400, 'Bad request'],
}

/** An error in the API's own form (RFC 9457). What is no ShoalError tells nothing of its insides. */
export function problemOf(error: unknown, status?: number): Problem {
  const known = isShoalError(error) ? error : undefined
  const code = known?.code ?? 'INTERNAL'
  const [usual, title] = ANSWERS[code] ?? [500, 'Internal error']
  return {
    type: `urn:shoal:problem:${code.toLowerCase().replaceAll('_', '-')}`,
    title,
    status: status ?? usual,
    detail: known?.message ?? 'something went wrong inside the daemon; its log says more',
    code,
  }
}

/** There is too much of something; the client may come back. */
export function tooMany(message: string): ShoalError {
  return Object.assign(new ShoalError('USAGE', message), { status: 429 })
}

export function sendProblem(res: Response, problem: Problem): void {
  res
    .status(problem.status)
    .type('application/problem+json')
    .send(JSON.stringify({ ...problem, instance: res.req.originalUrl }))
}

/** The way back: what a client makes of a problem that it received. */
export function errorOf(problem: Partial<Problem>, status: number): ShoalError {
  const code = (problem.code ?? 'INTERNAL') as ErrorCode
  return new ShoalError(code, problem.detail ?? `the daemon answered ${status}`, { details: { status } })
}
