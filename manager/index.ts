export { createManager } from './manager.ts'
export { type ManagerOptions, startManager } from './start.ts'
export * from './types.ts'
