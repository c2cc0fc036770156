export { createRuntimes, type Runtimes, type RuntimesOptions } from './registry.ts'
export type * from './types.ts'
