import { isShoalError } from '../../base/index.ts'
import type { Membership } from '../types.ts'
import type { SharedRecords } from './types.ts'

/**
 * Writes a record and waits for all nodes that are there, so that it can be read at every one of them at once; but only `copies` must
 * have it: a node that does not answer costs time, not the write.
 */
type PutEverywhere = (key: string, value: unknown, copies: number, signal: AbortSignal) => Promise<void>

/** @throws NO_QUORUM, from what it returns */
export function createPutEverywhere(deps: {
  records: Pick<SharedRecords, 'put'>
  members: Pick<Membership, 'list'>
}): PutEverywhere {
  const { records, members } = deps
  return async (key, value, copies, signal) => {
    const there = members.list().filter(({ state }) => state === 'alive').length
    try {
      await records.put(key, value, { copies: Math.max(copies, there), signal })
    } catch (error) {
      if (!isShoalError(error, 'NO_QUORUM')) throw error
      const { written, confirmed } = error.details
      if (written === true && Number(confirmed) >= copies) return
      // One left between the count and the write.
      if (written === true || there <= copies) throw error
      await records.put(key, value, { copies, signal })
    }
  }
}
