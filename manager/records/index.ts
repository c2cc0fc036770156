export { createPutEverywhere } from './everywhere.ts'
export { createSharedRecords } from './records.ts'
export type { SharedRecord, SharedRecords, Stamp } from './types.ts'
