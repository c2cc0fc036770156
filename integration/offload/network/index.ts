import type { Log } from '../../../base/index.ts'
import type { PodNetwork } from '../executor.ts'
import { createCniNetwork, findPlugins } from './cni.ts'
import { command } from './command.ts'
import { createHostNetwork } from './host.ts'

/** The network of this node's pods: CNI where its plugins and iptables are there, else the node's own. */
export async function createPodNetwork({ dir, log }: { dir: string; log: Log }): Promise<PodNetwork> {
  const plugins = findPlugins()
  if (plugins !== undefined) {
    try {
      await command('iptables', ['-t', 'nat', '-S'], { signal: AbortSignal.timeout(10e3) })
      return createCniNetwork({ plugins, dir })
    } catch (error) {
      log.warn(
        { err: error },
        "iptables does not work here: pods live in the node's own network, and cannot move",
      )
      return createHostNetwork()
    }
  }
  log.warn({}, "no CNI plugins are installed: pods live in the node's own network, and cannot move")
  return createHostNetwork()
}
