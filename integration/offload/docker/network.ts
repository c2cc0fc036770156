import { isShoalError, type Log } from '../../../base/index.ts'
import type { DockerApi } from '../../runtime/docker/index.ts'
import type { PodNetwork } from '../executor.ts'
import { createHostNetwork } from '../network/host.ts'

/** Docker's own bridge, with the ports that it publishes; where it has none (`--bridge none`), the node's own network. */
export async function createDockerNetwork({ api, log }: { api: DockerApi; log: Log }): Promise<PodNetwork> {
  try {
    await api(AbortSignal.timeout(10e3), (docker) => docker.getNetwork('bridge').inspect())
  } catch (error) {
    if (isShoalError(error, 'NOT_FOUND')) {
      log.warn({}, "docker has no bridge: pods live in the node's own network, and cannot move")
      return createHostNetwork()
    }
    // Nothing runs as long as docker does not answer: that is said by who looks whether something can.
    log.warn({ err: error }, 'docker does not say whether it has a bridge')
  }
  // It comes and goes with the container.
  return { shared: false, attach: async () => undefined, detach: async () => {}, list: async () => [] }
}
