export { cidOf, cidOfHash, hashOfCid, isCid } from './cid.ts'
export { type BlockStoreOptions, openBlockStore } from './open.ts'
export * from './types.ts'
