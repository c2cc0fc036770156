export type { BootstrapSource } from './bootstrap.ts'
export { type ClusterKey, loadClusterKey } from './clusterkey.ts'
export type { EncrypterName } from './encrypter.ts'
export { createIdentity, type Identity, loadIdentity } from './identity.ts'
export type { Links } from './links.ts'
export {
  createMembership,
  type MembershipControl,
  type MembershipOptions,
} from './membership/membership.ts'
export type { Timers } from './membership/timers.ts'
export { createNode, type NodeOptions } from './node.ts'
