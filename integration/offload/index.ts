export { createOffload, type OffloadOptions } from './offload.ts'
export { createTalk, type Talk } from './talk.ts'
export type * from './types.ts'
