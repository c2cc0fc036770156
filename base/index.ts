export { type Digest, digestOf, hasherFor, isDigest, parseDigest } from './digest.ts'
export { type ErrorCode, errnoOf, isShoalError, ShoalError } from './errors.ts'
export { type Log, silentLog } from './log.ts'
export { formatBytes, parseBytes } from './units.ts'
