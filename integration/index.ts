export * from './containerd/index.ts'
