export { createMec, type Mec, type MecConfig } from './mec.ts'
export type { Offers } from './offers.ts'
export type { MecListen } from './server.ts'
export type { MecTokens, Offer, TokenInfo } from './types.ts'
