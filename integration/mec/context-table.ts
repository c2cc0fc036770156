import { ShoalError } from '../../base/index.ts'
import type { Records } from '../../blockstore/index.ts'
import type { StoredContext } from './context-record.ts'
import type { Settling } from './settling.ts'

/** The contexts of this node's devices, in memory and in the store. */
export interface ContextTable {
  get(id: string): StoredContext | undefined
  has(id: string): boolean
  all(): StoredContext[]
  ofApp(appId: string): StoredContext | undefined
  /** How many the device has. */
  count(ue: string): number
  /** @throws NOT_FOUND */
  find(ue: string, id: string): StoredContext
  /** In memory only: it is written down by `save`. */
  keep(context: StoredContext): void
  save(context: StoredContext): Promise<void>
  /** Who waits for it hears that it is gone. */
  forget(context: StoredContext): Promise<void>
}

export async function openContextTable({
  records,
  settling,
}: {
  records: Records<StoredContext>
  settling: Settling
}): Promise<ContextTable> {
  const contexts = new Map<string, StoredContext>()
  const byApp = new Map<string, StoredContext>()
  const perUe = new Map<string, number>()

  function keep(context: StoredContext): void {
    contexts.set(context.id, context)
    byApp.set(context.appId, context)
    perUe.set(context.ue, (perUe.get(context.ue) ?? 0) + 1)
  }

  async function forget(context: StoredContext): Promise<void> {
    if (!contexts.delete(context.id)) return
    byApp.delete(context.appId)
    const left = (perUe.get(context.ue) ?? 1) - 1
    if (left > 0) perUe.set(context.ue, left)
    else perUe.delete(context.ue)
    await records.delete(context.id)
    settling.stir(context.id)
  }

  function find(ue: string, id: string): StoredContext {
    const context = contexts.get(id)
    // Whether somebody else has such a context is nobody's business.
    if (context?.ue !== ue) throw new ShoalError('NOT_FOUND', 'this device has no such context')
    return context
  }

  for await (const [, context] of records.entries()) keep(context)

  return {
    find,
    keep,
    forget,
    get: (id) => contexts.get(id),
    has: (id) => contexts.has(id),
    all: () => [...contexts.values()],
    ofApp: (appId) => byApp.get(appId),
    count: (ue) => perUe.get(ue) ?? 0,
    save: (context) => records.put(context.id, context),
  }
}
