export { createServeHosted } from './serve.ts'
export type { Hosted, HostedBlob, HostedManifest } from './types.ts'
