import { join } from 'node:path'
import { type Log, ShoalError } from '../../base/index.ts'
import type { Container, Runtime, RuntimeName } from './types.ts'

export interface RuntimesOptions {
  /** Path of its socket; its containers of this namespace of containerd's are the ones (default `default`). */
  containerd?: { address: string; namespace?: string }
  docker?: { socket: string }
  /** runc's state directory, and the CRIU to use. */
  runc?: { root: string; criu?: string }
  /** Where runtimes pull from, HOST:PORT: Shoal's own registry. */
  registry: string
  /** Directory for what drivers keep as files; made when it is needed. */
  dir: string
  log: Log
}

/** The runtimes of this machine that were configured. A driver is loaded when it is first asked for. */
export interface Runtimes {
  list(): RuntimeName[]
  /** @throws NOT_FOUND when that one was not configured */
  get(name: RuntimeName): Promise<Runtime>
  /**
   * Asks all of them, or only the one that is named.
   * @throws NOT_FOUND | NAME_INVALID when several have one of that name | RUNTIME when one did not answer and no other has it
   */
  find(container: string, options: { runtime?: RuntimeName; signal: AbortSignal }): Promise<Container>
  close(): Promise<void>
}

/** Another runtime is another line here. */
const DRIVERS: Record<RuntimeName, (options: RuntimesOptions) => Promise<Runtime | undefined>> = {
  containerd: async (options) =>
    options.containerd &&
    (await import('./containerd/index.ts')).createContainerdRuntime({ ...options, ...options.containerd }),
  docker: async (options) =>
    options.docker &&
    (await import('./docker/index.ts')).createDockerRuntime({
      ...options.docker,
      registry: options.registry,
    }),
  runc: async (options) =>
    options.runc &&
    (await import('./runc/index.ts')).createRuncRuntime({
      ...options.runc,
      registry: options.registry,
      dir: join(options.dir, 'runc'),
    }),
}

export function createRuntimes(options: RuntimesOptions): Runtimes {
  const names = (Object.keys(DRIVERS) as RuntimeName[]).filter((name) => options[name] !== undefined)
  const loaded = new Map<RuntimeName, Promise<Runtime>>()

  async function load(name: RuntimeName): Promise<Runtime> {
    const runtime = names.includes(name) ? await DRIVERS[name](options) : undefined
    if (!runtime) throw new ShoalError('NOT_FOUND', `no ${name} is configured on this node`)
    return runtime
  }

  function get(name: RuntimeName): Promise<Runtime> {
    let loading = loaded.get(name)
    if (!loading) {
      loading = load(name)
      loaded.set(name, loading)
      loading.catch(() => loaded.delete(name))
    }
    return loading
  }

  return {
    list: () => [...names],
    get,
    async find(container, { runtime, signal }) {
      const asked = runtime === undefined ? names : [runtime]
      const answers = await Promise.allSettled(
        asked.map(async (name) => (await get(name)).inspect(container, signal)),
      )
      const found = answers.filter((answer) => answer.status === 'fulfilled').map(({ value }) => value)
      if (found.length === 1) return found[0]!
      if (found.length > 1) {
        const owners = found.map((one) => one.runtime).join(' and ')
        throw new ShoalError('NAME_INVALID', `${owners} have a container ${container}: name the runtime`)
      }
      const errors = answers
        .filter((answer) => answer.status === 'rejected')
        .map(({ reason }) => reason as Error & { code?: string })
      const worst = errors.find((error) => error.code !== 'NOT_FOUND')
      if (worst) throw worst
      throw new ShoalError('NOT_FOUND', `no container ${container} in ${asked.join(', ') || 'any runtime'}`)
    },
    async close() {
      const drivers = await Promise.allSettled(loaded.values())
      for (const driver of drivers) if (driver.status === 'fulfilled') await driver.value.close()
    },
  }
}
