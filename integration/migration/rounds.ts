import type { Round } from './types.ts'

/** So little that the frozen round is made of what a dump costs anyhow. */
const SMALL = 1024 * 1024
/** A round that changed more than this part of what the one before did is not worth another: the container writes as fast as rounds go. */
const SHRINKS = 0.7

/**
 * Whether another round before the frozen one makes that one shorter.
 * @param most rounds before the frozen one
 */
export function anotherRound(rounds: readonly Round[], most: number): boolean {
  if (rounds.length >= most) return false
  const [before, last] = [rounds.at(-2), rounds.at(-1)]
  if (last === undefined) return true
  if (last.changed <= SMALL) return false
  return before === undefined || last.changed < before.changed * SHRINKS
}
