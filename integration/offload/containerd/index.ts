import { connectContainerd } from '../../runtime/containerd/index.ts'
import { createPodNetwork } from '../network/index.ts'
import type { PodRuntime, PodRuntimeOptions } from '../runtimes.ts'
import { createContainerdDriver } from './driver.ts'

export async function openContainerd(options: PodRuntimeOptions): Promise<PodRuntime> {
  const { socket, registry, dir, cgroupParent, mine, log } = options
  const network = await createPodNetwork({ dir, log })
  const client = connectContainerd({ address: socket })
  const driver = createContainerdDriver({ client, registry, dir, cgroupParent, mine })
  return { driver, network, close: () => client.close() }
}
