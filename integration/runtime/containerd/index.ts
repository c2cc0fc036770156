export type { ContainerdApi, ContainerRecord, Envelope, Process } from './api.ts'
export { type ClientOptions, type ContainerdClient, connectContainerd, unwrap } from './client.ts'
export { type ContainerdRuntimeOptions, createContainerdRuntime } from './driver.ts'
export { inspectImage, type LocalImage, type PullOptions, pullImage } from './image.ts'
export {
  type CreateOptions,
  createContainer,
  removeContainer,
  type StartOptions,
  specOf,
  startContainer,
  waitContainer,
} from './workload.ts'
