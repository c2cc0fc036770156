import { type ErrorCode, isShoalError, type ShoalError } from '../../base/index.ts'
import type { Fault } from './fields.ts'

/** RFC 9457, as ETSI's ProblemDetails have it; `code` is the ShoalError's, `errors` one entry for each member that is wrong. */
export interface Problem {
  type: string
  title: string
  status: number
  detail: string
  instance?: string
  code: string
  errors?: Fault[]
}

const ANSWERS: Partial<Record<ErrorCode, [status: number, title: string]>> = {
  ABORTED: [503, 'Stopping'],
  BUSY: [503, 'Busy'],
  DENIED: [403, 'Forbidden'],
  DIGEST_INVALID: [400, 'Bad request'],
  NAME_INVALID: [400, 'Bad request'],
  NOT_FOUND: [404, 'Not found'],
  NO_QUORUM: [503, 'Not enough nodes'],
  PEER_GONE: [503, 'Node away'],
  STORE_FULL: [507, 'Store full'],
  TIMEOUT: [504, 'Timeout'],
  UNAUTHORIZED: [401, 'Unauthorized'],
  // ETSI: the operation is not allowed given the current status of the resource. That is what no room comes to.
  UNFIT: [403, 'Nothing fits'],
  UPSTREAM_STATUS: [502, 'Upstream refused'],
  UPSTREAM_UNREACHABLE: [502, 'Upstream unreachable'],
  USAGE: [400, 'Bad request'],
}

const TITLES: Record<number, string> = {
  403: 'Forbidden',
  405: 'Method not allowed',
  406: 'Not acceptable',
  408: 'Request timeout',
  413: 'Body too large',
  415: 'Not JSON',
  422: 'Not supported',
  429: 'Too many',
  431: 'Headers too large',
}

/** What is no ShoalError tells nothing of its insides. `status` stands above the code's usual one. */
export function problemOf(error: unknown, status?: number): Problem {
  const known: ShoalError | undefined = isShoalError(error) ? error : undefined
  const code = known?.code ?? 'INTERNAL'
  const [usual, title] = ANSWERS[code] ?? [500, 'Internal error']
  const given = status ?? (known?.details.status as number | undefined) ?? usual
  const faults = known?.details.faults as Fault[] | undefined
  return {
    type: `urn:shoal:problem:${code.toLowerCase().replaceAll('_', '-')}`,
    title: (given === usual ? title : TITLES[given]) ?? title,
    status: given,
    detail: known?.message ?? 'something went wrong inside the daemon; its log says more',
    code,
    ...(faults === undefined ? {} : { errors: faults }),
  }
}
