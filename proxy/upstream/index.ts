export { type Challenge, parseChallenges } from './challenge.ts'
export { canonicalHost } from './hosts.ts'
export { createUpstream } from './upstream.ts'
