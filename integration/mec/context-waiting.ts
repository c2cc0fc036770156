import { isShoalError } from '../../base/index.ts'
import type { ContextFollowing } from './context-following.ts'
import type { ContextPlacing } from './context-placing.ts'
import type { StoredContext } from './context-record.ts'
import type { ContextTable } from './context-table.ts'

/** Contexts that wait for room, or for a node to be back so that they can be deleted. */
export interface ContextWaiting {
  /** Room comes and goes unheard: those that wait look again and again, and soon where an application went. */
  retry(inMs: number): void
  close(): void
}

export function createContextWaiting(deps: {
  table: ContextTable
  following: ContextFollowing
  placing: ContextPlacing
  closing: AbortSignal
  retryMs: number
}): ContextWaiting {
  const { table, closing, retryMs } = deps
  const { end, attempt } = deps.following
  const { look } = deps.placing
  let retryTimer: NodeJS.Timeout | undefined

  function retry(inMs: number): void {
    clearTimeout(retryTimer)
    const waiting = table.all().filter(({ phase }) => phase === 'waiting' || phase === 'deleting')
    if (waiting.length === 0 || closing.aborted) return
    retryTimer = setTimeout(() => {
      for (const context of waiting) attempt(context, () => again(context))
      retry(retryMs)
    }, inMs)
  }

  async function again(context: StoredContext): Promise<void> {
    if (table.get(context.id) !== context) return
    // Its application could not be deleted, or a node was away that had a part of it.
    if (context.phase === 'deleting') return end(context, true)
    await look(context).catch((error) => {
      if (!isShoalError(error, 'UNFIT')) throw error
    })
  }

  return { retry, close: () => clearTimeout(retryTimer) }
}
