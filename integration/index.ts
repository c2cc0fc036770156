export * from './containerd/index.ts'
export { createPlatform, type Platform, type PlatformDependencies } from './platform.ts'
export * from './state/index.ts'
