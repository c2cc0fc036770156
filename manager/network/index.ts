export { type Activity, createActivity } from './activity.ts'
export { dialableAddresses } from './addresses.ts'
export { type BootstrapSource, DEFAULT_PORT, parseBootstrap } from './bootstrap.ts'
export { type ClusterKey, loadClusterKey } from './clusterkey.ts'
export { createIdentity, type Identity, loadIdentity } from './identity.ts'
export { createLinks, type Links } from './links.ts'
export {
  createMembership,
  type MembershipControl,
  type MembershipOptions,
} from './membership/membership.ts'
export type { Timers } from './membership/timers.ts'
export { createNetwork, type JoinOptions, type Network, type NetworkOptions } from './network.ts'
export { createNode, type EncrypterName, type NodeOptions } from './node.ts'
