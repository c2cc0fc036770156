export { type Collected, collectImage, storedName } from './collect.ts'
export type { Hosted, HostedBlob, HostedManifest } from './hosted/index.ts'
export { type Image, platformName } from './images.ts'
export { type LocalView, listLocal } from './local/index.ts'
export type { PinnedImage } from './pins.ts'
export { hostPlatform, type Platform, parsePlatform } from './platform.ts'
export { type PartProgress, type PullResult, pullImage } from './pull.ts'
export { formatReference, parseReference, type Reference } from './reference.ts'
export {
  createProxy,
  type Login,
  listImages,
  type ProxyConfig,
  type ProxyDependencies,
  type ProxyParts,
  type PushDependencies,
  type RegistryProxy,
} from './registry/index.ts'
export * from './types.ts'
export { createUpstream } from './upstream/index.ts'
