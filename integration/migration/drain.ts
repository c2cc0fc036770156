import { isShoalError, type Log, ShoalError } from '../../base/index.ts'
import type { Manager, Member } from '../../manager/index.ts'
import type { Checkpoints } from '../checkpoint/types.ts'
import type { Container, Runtimes } from '../runtime/index.ts'
import type { Engine } from './engine.ts'
import type { Migration, Migrations } from './types.ts'

/** Copies of the last checkpoint of what could not be moved. */
const COPIES = 2
/** Whoever has these brings the container back by itself, here or elsewhere. */
const OTHERS = /^(?:io\.kubernetes\.|io\.cri-containerd)/

/**
 * Empties this node: container by container, each to the node of the site that was given the fewest so far and takes it. What no node
 * takes is frozen into a checkpoint that the site keeps, from which any node can restore it; what cannot even be that stays.
 */
export function createDrain(deps: {
  manager: Pick<Manager, 'members' | 'self'>
  runtimes: Pick<Runtimes, 'list' | 'get'>
  migrations: Engine
  checkpoints: Pick<Checkpoints, 'create'> | undefined
  log: Log
}): Migrations['drain'] {
  const { manager, runtimes, migrations, checkpoints, log } = deps

  async function move(
    container: Container,
    nodes: Member[],
    given: Map<string, number>,
    signal: AbortSignal,
  ): Promise<{ moved: Migration } | { reasons: string[] }> {
    const reasons: string[] = []
    const cost = ({ id, state }: Member): number => (given.get(id) ?? 0) + (state === 'alive' ? 0 : 1000)
    const order = nodes.toSorted((a, b) => cost(a) - cost(b))
    for (const node of order) {
      signal.throwIfAborted()
      try {
        const { runtime, id } = container
        const started = await migrations.start({ container: id, runtime, to: node.id })
        const ended = await migrations.ended(started.id, signal)
        if (ended.state === 'done') {
          given.set(node.id, (given.get(node.id) ?? 0) + 1)
          return { moved: ended }
        }
        reasons.push(`${node.name}: ${ended.reason ?? ended.state}`)
        // It is frozen, and whether it runs there nobody knows: nothing else may be tried.
        if (ended.state === 'undecided') return { reasons: reasons.slice(-1) }
      } catch (error) {
        if (signal.aborted) throw error
        reasons.push(`${node.name}: ${(error as Error).message}`)
      }
    }
    return { reasons: reasons.length > 0 ? reasons : ['there is no other node in the site'] }
  }

  async function handOff(container: Container, signal: AbortSignal): Promise<string> {
    if (!checkpoints) throw new ShoalError('UNFIT', 'this node makes no checkpoints')
    const { id, runtime } = container
    const request = { container: id, runtime, leaveRunning: false, copies: COPIES, signal }
    const { checkpoint } = await checkpoints.create(request)
    return `${checkpoint.name}:${checkpoint.version}`
  }

  async function drainOne(container: Container, given: Map<string, number>, signal: AbortSignal) {
    if (Object.keys(container.labels).some((label) => OTHERS.test(label))) {
      return { reason: 'Kubernetes manages it: drain the node there' }
    }
    const nodes = manager.members.site().filter(({ id }) => id !== manager.self.id)
    const result = await move(container, nodes, given, signal)
    if ('moved' in result) return result
    const why = result.reasons.join('; ')
    const busy = migrations
      .list()
      .some(
        ({ role, state, container: { id } }) =>
          role === 'source' && id === container.id && (state === 'undecided' || state === 'running'),
      )
    if (busy) return { reason: why }
    try {
      const name = await handOff(container, signal)
      return {
        reason: `it could not be moved (${why}), and was stopped: shoal restore ${name} brings it back on any node`,
      }
    } catch (error) {
      if (signal.aborted) throw error
      return { reason: `${why}; and no checkpoint could be made of it: ${(error as Error).message}` }
    }
  }

  return async ({ signal }) => {
    const moved: Migration[] = []
    const left: { container: string; reason: string }[] = []
    const given = new Map<string, number>()
    for (const name of runtimes.list()) {
      const containers = await runtimes
        .get(name)
        .then((runtime) => runtime.list(signal))
        .catch((error: unknown) => {
          if (!isShoalError(error)) throw error
          left.push({ container: `all of ${name}`, reason: error.message })
          return []
        })
      for (const container of containers) {
        if (container.state !== 'running') continue
        const result = await drainOne(container, given, signal)
        if ('moved' in result) moved.push(result.moved)
        else left.push({ container: container.name, reason: result.reason })
        log.info({ container: container.name, ...result }, 'drained')
      }
    }
    return { moved, left }
  }
}
