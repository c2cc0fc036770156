import { isShoalError } from '../../../base/index.ts'
import {
  type ContainerdClient,
  type ContainerRecord,
  createContainer,
  pullImage,
  removeContainer,
  startContainer,
} from '../../runtime/containerd/index.ts'
import type { DriverPod, PodDriver } from '../executor.ts'
import { createPulls } from './pulls.ts'

const ANSWER_MS = 5000
/** Below this a container's first instructions fail. */
const LEAST_MEMORY = 4 * 2 ** 20

/**
 * containerd runs pods as containers of its own, each by name. Images are pulled by it through the node's Shoal; they stay under their proper
 * names when the pods are gone, as with any other container.
 */
export function createContainerdDriver(deps: {
  client: ContainerdClient
  /** Where the node's registry listens, HOST:PORT. */
  registry: string
  /** For the file that says so to containerd's client. */
  dir: string
  cgroupParent: string
  /** Label by which this node's containers are known, and its value. */
  mine: { label: string; value: string }
}): PodDriver {
  const { client, registry, dir, cgroupParent, mine } = deps
  const pulls = createPulls(async (reference, signal) => {
    await pullImage({ client, reference, registry, dir, signal })
  })

  async function processOf(containerId: string, signal: AbortSignal) {
    try {
      return (await client.tasks.get({ containerId }, { signal })).process
    } catch (error) {
      if (isShoalError(error, 'NOT_FOUND')) return undefined
      throw error
    }
  }

  async function podOf({ id, labels }: ContainerRecord, signal: AbortSignal): Promise<DriverPod> {
    const task = await processOf(id, signal)
    const runs = task !== undefined && task.status !== 'STOPPED' && task.status !== 'CREATED'
    return { name: id, labels, pid: runs ? task.pid : undefined }
  }

  return {
    runtime: 'containerd',

    async unfit(signal) {
      try {
        await client.version.version({}, { signal, timeoutMs: ANSWER_MS })
        return undefined
      } catch (error) {
        return (error as Error).message
      }
    },

    pull: pulls.pull,

    async list(signal) {
      const filters = [`labels."${mine.label}"=="${mine.value}"`]
      const { containers } = await client.containers.list({ filters }, { signal })
      return containers.map(({ id, labels }) => ({ name: id, labels }))
    },

    async find(name, signal) {
      try {
        const { container } = await client.containers.get({ id: name }, { signal })
        return await podOf(container, signal)
      } catch (error) {
        if (isShoalError(error, 'NOT_FOUND')) return undefined
        throw error
      }
    },

    async start({ name, labels, spec, netns, log }, signal) {
      await removeContainer(client, name, signal)
      await createContainer({
        client,
        image: spec.image,
        id: name,
        // Without any the image's own command runs.
        ...(spec.args.length > 0 ? { args: spec.args } : {}),
        env: spec.env,
        labels,
        limits: {
          ...(spec.cpu > 0 ? { cpu: spec.cpu } : {}),
          ...(spec.memory > 0 ? { memory: Math.max(spec.memory, LEAST_MEMORY) } : {}),
        },
        ...(netns === undefined ? {} : { netns }),
        hostname: spec.name,
        cgroupParent,
        signal,
      })
      return startContainer({ client, id: name, ...(log === undefined ? {} : { log }), signal })
    },

    async ending(name, signal) {
      const task = await processOf(name, signal)
      return task?.status === 'STOPPED' ? `it ended with code ${task.exitStatus}` : undefined
    },

    async usage(name, signal) {
      try {
        const { container } = await client.containers.get({ id: name }, { signal })
        const { snapshotter, snapshotKey: key } = container
        return key === '' ? undefined : (await client.snapshots.usage({ snapshotter, key }, { signal })).size
      } catch (error) {
        if (isShoalError(error, 'NOT_FOUND')) return undefined
        throw error
      }
    },

    remove: (name, signal) => removeContainer(client, name, signal),
  }
}
