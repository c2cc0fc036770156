export * from './containerd/index.ts'
export { createPlatform, type Platform, type PlatformDependencies } from './platform.ts'
