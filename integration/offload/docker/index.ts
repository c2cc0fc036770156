import { createDockerApi } from '../../runtime/docker/index.ts'
import type { PodRuntime, PodRuntimeOptions } from '../runtimes.ts'
import { createDockerDriver } from './driver.ts'
import { createDockerNetwork } from './network.ts'

export async function openDocker(options: PodRuntimeOptions): Promise<PodRuntime> {
  const { socket, registry, cgroupParent, mine, log } = options
  const api = createDockerApi(socket)
  const network = await createDockerNetwork({ api, log })
  const driver = createDockerDriver({ api, registry, cgroupParent, mine, hosted: network.shared })
  return { driver, network, close: () => {} }
}
