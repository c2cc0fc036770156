export { wereStatesHeld } from './holds.ts'
export { createStates } from './states.ts'
export type { Captured, Seal, StateFile, States } from './types.ts'
