import {
  type Action,
  createPeerBook,
  createPlanner,
  type PeerBook,
  type Planner,
  type PlannerLimits,
  type Priority,
} from '../../scheduler/index.ts'
import { BLOCK, seeded, span } from './helpers.ts'

/** A planner whose task has `blocks` blocks, all of them known. */
export function setup(
  options: {
    blocks?: number
    book?: PeerBook
    priority?: Priority
    seed?: number
    limits?: Partial<PlannerLimits>
  } = {},
): { planner: Planner; book: PeerBook } {
  const book = options.book ?? createPeerBook({ limits: { minBudget: BLOCK } })
  const planner = createPlanner({
    blockSize: BLOCK,
    book,
    priority: () => options.priority ?? 'client',
    random: seeded(options.seed ?? 1),
    ...(options.limits === undefined ? {} : { limits: options.limits }),
  })
  const blocks = options.blocks ?? 16
  planner.size(blocks * BLOCK)
  for (const index of span(0, blocks)) planner.known(index)
  return { planner, book }
}

export type Ask = Extract<Action, { type: 'ask' }>
export const asks = (actions: Action[]): Ask[] => actions.filter((action) => action.type === 'ask')
export const cancels = (actions: Action[]): Action[] => actions.filter((action) => action.type === 'cancel')

/** Makes the book believe that the peer delivers a block in `ms`. */
export function acquaint(book: PeerBook, peer: string, ms: number): void {
  for (let i = 0; i < 30; i++) {
    book.asked(peer, BLOCK, i * 1000)
    book.arrived(peer, BLOCK, i * 1000, i * 1000 + ms)
  }
}
