import { type ErrorCode, ShoalError } from '../../base/index.ts'
import type { DispatchAnswer, ReleaseReason } from '../../scheduler/index.ts'

const CODES: Partial<Record<ReleaseReason, ErrorCode>> = { missing: 'NOT_FOUND', denied: 'DENIED' }

export function toShoalError(error: unknown): ShoalError {
  if (error instanceof ShoalError) return error
  return new ShoalError('INTERNAL', error instanceof Error ? error.message : String(error), { cause: error })
}

/**
 * Why a blob cannot be had. What upstream told this node (`own`; `denied` where it refused the rights of a client here) says
 * more than what it told others.
 */
export function refusalError(
  refusal: NonNullable<DispatchAnswer['refusal']>,
  own: unknown,
  denied: unknown,
): ShoalError {
  const mine = refusal.reason === 'denied' ? denied : own
  if (mine instanceof ShoalError) return mine
  const detail = refusal.detail ?? 'nobody here has it and upstream cannot be reached'
  return new ShoalError(CODES[refusal.reason] ?? 'UPSTREAM_UNREACHABLE', detail)
}
