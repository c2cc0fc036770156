export {
  bitfield,
  bitIndexes,
  clearBit,
  countBits,
  fullBitfield,
  hasBit,
  offersBits,
  setBit,
} from './bits.ts'
export { createLedger } from './ledger.ts'
export { DEFAULT_LIMITS, type LedgerLimits, type PeerLimits, type PlannerLimits } from './limits.ts'
export { createPeerBook } from './peerbook.ts'
export { balanceWeights, fairParts, type PlacedBlob, type PlacementNode, placeBlob } from './placement.ts'
export { createPlanner } from './planner.ts'
export { rendezvous } from './rendezvous.ts'
export * from './types.ts'
