import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { Readable } from 'node:stream'
import { ShoalError, silentLog } from '../../../base/index.ts'
import type { Collect } from '../../../integration/checkpoint/base-image.ts'
import { createCheckpoints } from '../../../integration/checkpoint/checkpoints.ts'
import type {
  Container,
  ContainerState,
  Recreation,
  Runtime,
  RuntimeFacts,
} from '../../../integration/runtime/types.ts'
import { createStates } from '../../../integration/state/index.ts'
import type { SwarmNode } from '../../manager/swarm.ts'

const NAMESPACES = ['pid', 'network', 'ipc', 'uts', 'mount'].map((type) => ({ type }))

/** A runtime whose containers are their images: what CRIU would write is given, and what it would read is kept. */
export interface TwinRuntime extends Runtime {
  containers: Map<string, TwinContainer>
  /** What was done, in order: `pause c1`. */
  done: string[]
  facts_: RuntimeFacts
  /** Throws before the step of this name. */
  failAt: string | undefined
  run(name: string, options?: { image?: Recreation['image']; env?: string[] }): TwinContainer
  stop(): void
}

export interface TwinContainer {
  id: string
  name: string
  state: ContainerState
  criu: Record<string, Buffer>
  layer: Buffer
  labels: Record<string, string>
  image: Recreation['image']
  env: string[]
}

export function createTwinRuntime(): TwinRuntime {
  const containers = new Map<string, TwinContainer>()
  const done: string[] = []
  // Something that runs, for who looks into /proc.
  const process_: ChildProcess = spawn('sleep', ['3600'], { stdio: 'ignore' })
  let count = 0

  const get = (id: string): TwinContainer => {
    const found = [...containers.values()].find((one) => one.id === id || one.name === id)
    if (!found) throw new ShoalError('NOT_FOUND', `no container ${id}`)
    return found
  }
  const note = (step: string, id: string): void => {
    if (runtime.failAt === step) throw new ShoalError('RUNTIME', `${step} fails on purpose`)
    done.push(`${step} ${id}`)
  }
  const shown = ({ id, name, state, labels, image, env }: TwinContainer): Container => ({
    runtime: 'containerd',
    id,
    name,
    state,
    labels,
    image,
    pid: state === 'running' || state === 'paused' ? process_.pid : undefined,
    spec: { ociVersion: '1.0.2', process: { args: ['sleep'], env }, linux: { namespaces: NAMESPACES } },
  })

  const runtime: TwinRuntime = {
    name: 'containerd',
    containers,
    done,
    failAt: undefined,
    facts_: {
      name: 'containerd',
      version: '1.6.20',
      oci: { name: 'runc', version: '1.1.5' },
      criu: '4.2.1',
      can: { checkpoint: true, restore: true, run: true },
      why: [],
    },
    run(name, { image, env = ['A=b'] } = {}) {
      const id = `c${count++}-${name}`
      const made: TwinContainer = {
        id,
        name,
        state: 'running',
        labels: {},
        image,
        env,
        criu: {
          'core-1.img': randomBytes(700),
          'pages-1.img': randomBytes(256 * 4096),
          'descriptors.json': Buffer.from('[]'),
        },
        layer: Buffer.concat([randomBytes(70_000), Buffer.alloc(1024)]),
      }
      containers.set(id, made)
      return made
    },
    stop: () => void process_.kill(),
    facts: async () => runtime.facts_,
    list: async () => [...containers.values()].map(shown),
    inspect: async (id) => shown(get(id)),
    async describe(id) {
      const { name, image, labels, spec } = shown(get(id))
      return { runtime: 'containerd', name, image, labels, spec, own: {} }
    },
    async pause(id) {
      note('pause', id)
      get(id).state = 'paused'
    },
    async resume(id) {
      note('resume', id)
      get(id).state = 'running'
    },
    async dump(id, { dir, leave }) {
      note('dump', id)
      for (const [path, bytes] of Object.entries(get(id).criu)) await writeFile(join(dir, path), bytes)
      await writeFile(join(dir, 'dump.log'), 'not for others')
      if (leave === 'stopped') get(id).state = 'stopped'
    },
    async writable(id) {
      note('writable', id)
      return Readable.from([get(id).layer])
    },
    async prepare({ name, recreation, labels = {} }) {
      note('prepare', name)
      const made: TwinContainer = {
        id: `c${count++}-${name}`,
        name,
        state: 'created',
        criu: {},
        layer: Buffer.alloc(0),
        labels: { ...recreation.labels, ...labels },
        image: recreation.image,
        env: recreation.spec.process?.env ?? [],
      }
      containers.set(made.id, made)
      return runtime.prepared(made.id, AbortSignal.timeout(1000))
    },
    async prepared(id) {
      const made = get(id)
      return {
        id,
        async applyWritable(tar) {
          note('layer', id)
          made.layer = Buffer.concat(await Array.fromAsync(tar))
        },
        async start(dir) {
          note('start', id)
          for (const name of await readdir(dir)) made.criu[name] = await readFile(join(dir, name))
          made.state = 'running'
          return { pid: process_.pid ?? 0 }
        },
        async discard() {
          containers.delete(id)
        },
      }
    },
    exec: async () => ({ code: 0, output: '' }),
    async remove(id) {
      note('remove', id)
      return containers.delete(id)
    },
    close: async () => {},
  }
  return runtime
}

export const SECRET = Buffer.from('what the cluster knows')

/** Checkpoints of a node of the swarm, with a runtime twin. */
export async function checkpointsOn(
  node: SwarmNode,
  options: {
    runtime?: TwinRuntime
    collect?: Collect
    secret?: Buffer
    now?: () => number
    isMoving?: () => Promise<boolean>
  } = {},
) {
  const runtime = options.runtime ?? createTwinRuntime()
  const dir = join(dirname(node.dir), `work-${node.id}`)
  await mkdir(dir, { recursive: true })
  const states = createStates({
    manager: node.manager,
    store: node.store,
    dir: join(dir, 'states'),
    log: silentLog(),
  })
  const checkpoints = await createCheckpoints({
    manager: node.manager,
    store: node.store,
    states,
    runtimes: { list: () => ['containerd'], get: async () => runtime },
    collect:
      options.collect ??
      (async () => {
        throw new ShoalError('NOT_FOUND', 'nobody has it')
      }),
    secret: options.secret ?? SECRET,
    dir: join(dir, 'checkpoints'),
    log: silentLog(),
    sweepMs: 3_600_000,
    ...(options.now ? { now: options.now } : {}),
    ...(options.isMoving ? { isMoving: options.isMoving } : {}),
  })
  return { node, runtime, states, checkpoints, dir: join(dir, 'checkpoints') }
}
