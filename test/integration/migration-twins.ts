import { type Digest, digestOf, isShoalError, ShoalError, silentLog } from '../../base/index.ts'
import type { Records } from '../../blockstore/index.ts'
import {
  type Carrier,
  type Clock,
  createEngine,
  type Engine,
  type Entry,
  type Judge,
  LABEL,
  TIMINGS,
} from '../../integration/migration/index.ts'
import type { Container, OciSpec, Prepared, Runtime } from '../../integration/runtime/types.ts'
import type { Member, RpcHandler } from '../../manager/index.ts'

/** A time that jumps from one timer to the next as soon as nothing else is to be done. */
export function createVirtualTime() {
  let now = 1_000_000
  let order = 0
  const timers: { at: number; order: number; fire: () => void }[] = []
  const clock: Clock = {
    now: () => now,
    sleep: (ms, signal) =>
      new Promise((resolve) => {
        if (signal?.aborted) return resolve()
        const timer = { at: now + Math.max(0, ms), order: order++, fire: resolve }
        timers.push(timer)
        signal?.addEventListener('abort', () => {
          const at = timers.indexOf(timer)
          if (at >= 0) timers.splice(at, 1)
          resolve()
        })
      }),
  }
  return {
    clock,
    /** Until `done`, or for so long in this time. True if it was done. */
    async run(done: () => boolean, forMs: number): Promise<boolean> {
      const until = now + forMs
      for (;;) {
        await new Promise((resolve) => setImmediate(resolve))
        if (done()) return true
        timers.sort((a, b) => a.at - b.at || a.order - b.order)
        const next = timers[0]
        if (!next || next.at > until) return false
        timers.shift()
        now = next.at
        next.fire()
      }
    },
  }
}

export function randomFrom(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

/** A container of the model: it counts the ms that it ran. */
interface Box {
  id: string
  name: string
  labels: Record<string, string>
  state: 'created' | 'running' | 'paused'
  count: number
  since: number
  /** Restores under way, which go on when the daemon that began them dies. */
  starting: number
  removed: boolean
}

export interface Faults {
  /** Chance that a daemon dies at a point where it touches journal, runtime or network. */
  crash: number
  crashes: number
  lose: number
  repeat: number
  /** Chance that a thing that the runtime or the disk does fails. */
  fail: number
  unhealthy: boolean
  /** When the network between the hosts is cut, and for how long. */
  cuts: { at: number; forMs: number }[]
}

export const CALM: Faults = { crash: 0, crashes: 0, lose: 0, repeat: 0, fail: 0, unhealthy: false, cuts: [] }

interface Life {
  alive: boolean
}

const forever = (): Promise<never> => new Promise(() => {})
const ID = 'c0ffee'

/** Two hosts with a runtime each, daemons that die and come back on them, and a network that loses, repeats and delays. */
export function createWorld({ seed, faults }: { seed: number; faults: Faults }) {
  const time = createVirtualTime()
  const { clock } = time
  const random = randomFrom(seed)
  const between = (low: number, high: number): number => low + Math.floor(random() * (high - low))
  const violations: string[] = []
  const trace: string[] = []
  const states = new Map<Digest, number>()
  const frozen: { count?: number } = {}
  const from = clock.now()
  let crashesLeft = faults.crashes

  const hosts = ['s', 't'].map((name) => ({
    name,
    boxes: new Map<string, Box>(),
    disk: new Map<string, string>(),
    assembled: new Map<string, Digest>(),
    life: { alive: false } as Life,
    engine: undefined as Engine | undefined,
    handlers: new Map<string, RpcHandler>(),
    staysDown: false,
  }))
  type Host = (typeof hosts)[number]
  const [s, t] = hosts as [Host, Host]

  const say = (text: string): void => void trace.push(`${clock.now() - from} ${text}`)
  const cut = (): boolean =>
    faults.cuts.some(({ at, forMs }) => clock.now() - from >= at && clock.now() - from < at + forMs)

  function check(): void {
    const running = hosts.flatMap(({ name, boxes }) =>
      [...boxes.values()].filter(({ state }) => state === 'running').map(({ id }) => `${id} on ${name}`),
    )
    if (running.length > 1) violations.push(`${clock.now() - from}: ${running.join(' and ')} run`)
  }

  function set(host: Host, box: Box, state: Box['state']): void {
    if (box.state === 'running') box.count += clock.now() - box.since
    box.state = state
    box.since = clock.now()
    say(`${host.name}: ${box.id} is ${state} at ${box.count}`)
    check()
  }

  function die(host: Host, life: Life, where: string): void {
    if (!life.alive) return
    life.alive = false
    say(`${host.name}: the daemon dies, ${where}`)
    if (!host.staysDown) void clock.sleep(between(50, 30_000)).then(() => boot(host))
  }

  /** A point where a daemon may die: before the work, or when it was done and nobody has heard of it. */
  async function point<T>(host: Host, life: Life, what: string, work: () => Promise<T> | T): Promise<T> {
    const perhaps = (when: string): void => {
      if (crashesLeft <= 0 || !life.alive || random() >= faults.crash) return
      crashesLeft--
      die(host, life, `${when} ${what}`)
    }
    if (!life.alive) return forever()
    perhaps('before')
    if (!life.alive) return forever()
    try {
      const result = await work()
      perhaps('after')
      return life.alive ? result : forever()
    } catch (error) {
      return life.alive ? Promise.reject(error) : forever()
    }
  }

  const mayFail = (what: string): void => {
    if (random() < faults.fail) throw new ShoalError('RUNTIME', `${what} failed`)
  }

  const boxOf = (host: Host, id: string): Box => {
    const box = host.boxes.get(id) ?? [...host.boxes.values()].find(({ name }) => name === id)
    if (!box) throw new ShoalError('NOT_FOUND', `no container ${id}`)
    return box
  }

  function viewOf(box: Box): Container {
    return {
      runtime: 'runc',
      id: box.id,
      name: box.name,
      state: box.state,
      image: undefined,
      labels: box.labels,
      pid: box.state === 'created' ? undefined : 1,
      spec: { ociVersion: '1.0.0' } as OciSpec,
    }
  }

  function runtimeOf(host: Host, life: Life): Runtime {
    const at = <T>(what: string, work: () => Promise<T> | T): Promise<T> => point(host, life, what, work)
    const preparedOf = (box: Box): Prepared => ({
      id: box.id,
      applyWritable: () =>
        at('applyWritable', async () => {
          const check = (): void => {
            if (box.starting > 0 || box.state === 'running')
              violations.push(`${clock.now() - from}: unpacked into what runs, or is being started`)
          }
          check()
          await clock.sleep(between(1, 500))
          check()
          mayFail('unpacking')
        }),
      start: (dir) =>
        at('start', async () => {
          const recipe = host.assembled.get(dir)
          const count = recipe && states.get(recipe)
          if (count === undefined) throw new ShoalError('RUNTIME', 'no images')
          if (count !== frozen.count) violations.push(`restored from ${count}, frozen at ${frozen.count}`)
          box.starting++
          // Not the daemon's: it goes on when that one dies.
          await clock.sleep(between(50, 2000))
          box.starting--
          if (box.removed) throw new ShoalError('RUNTIME', 'it is gone')
          mayFail('restoring')
          box.count = count
          set(host, box, 'running')
          return { pid: 1 }
        }),
      discard: () =>
        at('discard', () => {
          mayFail('removing')
          remove(host, box.id)
        }),
    })
    return {
      name: 'runc',
      facts: forever,
      list: () => at('list', () => [...host.boxes.values()].map(viewOf)),
      inspect: (id) => at('inspect', () => viewOf(boxOf(host, id))),
      describe: (id) =>
        at('describe', () => {
          const { name, labels } = boxOf(host, id)
          return {
            runtime: 'runc',
            name,
            image: undefined,
            labels,
            spec: { ociVersion: '1.0.0' } as OciSpec,
            own: {},
          }
        }),
      pause: (id) =>
        at('pause', () => {
          const box = boxOf(host, id)
          mayFail('pausing')
          if (box.state === 'running') set(host, box, 'paused')
          frozen.count = box.count
        }),
      resume: (id) =>
        at('resume', () => {
          mayFail('resuming')
          const box = boxOf(host, id)
          if (box.state === 'paused') set(host, box, 'running')
        }),
      dump: forever,
      writable: forever,
      prepare: ({ name, labels = {} }) =>
        at('prepare', async () => {
          await clock.sleep(between(10, 5000))
          mayFail('preparing')
          const box: Box = {
            id: `made${host.boxes.size}`,
            name,
            labels,
            state: 'created',
            count: 0,
            since: 0,
            starting: 0,
            removed: false,
          }
          host.boxes.set(box.id, box)
          say(`${host.name}: ${box.id} is prepared`)
          return preparedOf(box)
        }),
      prepared: (id) => at('prepared', () => preparedOf(boxOf(host, id))),
      exec: forever,
      remove: (id) =>
        at('remove', () => {
          mayFail('removing')
          return remove(host, id)
        }),
      close: async () => {},
    }
  }

  function remove(host: Host, id: string): boolean {
    const box = host.boxes.get(id)
    if (!box) return false
    box.removed = true
    host.boxes.delete(id)
    say(`${host.name}: ${id} is removed`)
    return true
  }

  function carrierOf(host: Host, life: Life): Carrier {
    return {
      capture: ({ container }) =>
        point(host, life, 'capture', async () => {
          await clock.sleep(between(50, 1500))
          mayFail('dumping')
          const box = boxOf(host, container)
          const count = box.count + (box.state === 'running' ? clock.now() - box.since : 0)
          const recipe = digestOf(Buffer.from(`${count} ${random()}`))
          states.set(recipe, count)
          return { recipe, writable: recipe, changed: between(0, 2 ** 24), added: 1 }
        }),
      assemble: ({ id, recipe }) =>
        point(host, life, 'assemble', async () => {
          await clock.sleep(between(10, 8000))
          mayFail('assembling')
          if (cut()) throw new ShoalError('UPSTREAM_UNREACHABLE', 'nobody has it')
          host.assembled.set(id, recipe)
          return { fetched: 1 }
        }),
      unpack: async (_id, prepared, signal) => prepared.applyWritable(undefined as never, signal),
      images: (id) => id,
      quiet: async (id) => {
        const busy = (): boolean =>
          [...host.boxes.values()].some((box) => box.labels[LABEL] === id && box.starting > 0)
        while (busy()) await clock.sleep(100)
      },
      forget: async () => {},
    }
  }

  const judge: Judge = {
    leaving: async () => ({
      reasons: [],
      size: 1,
      needs: {
        arch: 'x64',
        kernel: '6',
        cpu: [],
        criu: '4',
        oci: { name: 'runc', version: '1' },
        cgroups: 'v2',
      },
    }),
    coming: async () => ({ reasons: [], image: undefined }),
    adapted: async (recreation) => recreation,
  }

  function recordsOf(host: Host, life: Life): Records<Entry> {
    return {
      get: async () => undefined,
      put: (key, value) =>
        point(host, life, `journal ${value.phase}`, async () => {
          await clock.sleep(1)
          mayFail('the disk')
          if (life.alive) {
            host.disk.set(key, JSON.stringify(value))
            say(`${host.name}: ${value.state} ${value.phase} ${value.verdict ?? ''} ${value.reason ?? ''}`)
          }
        }),
      delete: async (key) => void host.disk.delete(key),
      async *entries() {
        for (const [key, text] of host.disk) yield [key, JSON.parse(text) as Entry]
      },
    }
  }

  async function deliver(to: Host, peer: string, method: string, body: unknown): Promise<unknown> {
    await clock.sleep(between(0, 3))
    const { life } = to
    if (!life.alive || cut()) throw new ShoalError('PEER_GONE', `${to.name} is gone`)
    const handler = to.handlers.get(method)
    if (!handler) throw new ShoalError('PROTOCOL', `no such method: ${method}`)
    return await point(to, life, `hearing ${method}`, () =>
      handler(peer, structuredClone(body), new AbortController().signal),
    )
  }

  function rpcOf(host: Host, life: Life): Parameters<typeof createEngine>[0]['rpc'] {
    return {
      handle: (method, handler) => void host.handlers.set(method, handler),
      async request(peer, method, body, { signal, timeoutMs }) {
        const to = hosts.find(({ name }) => name === peer)
        if (!to) throw new ShoalError('PEER_GONE', 'nobody')
        const lost = new ShoalError('TIMEOUT', `${peer} did not answer ${method}`)
        const expired = clock.sleep(timeoutMs, signal).then(() => {
          throw signal?.aborted ? signal.reason : lost
        })
        expired.catch(() => {})
        return await point(host, life, `asking ${method}`, async () => {
          const copy = structuredClone(body)
          if (random() < faults.repeat) {
            void clock
              .sleep(between(0, 120_000))
              .then(() => deliver(to, host.name, method, copy))
              .catch(() => {})
          }
          if (cut() || random() < faults.lose) return await expired
          const answer = deliver(to, host.name, method, copy).catch((error: unknown) => {
            // As over the wire: codes and messages of our errors, nothing else.
            if (isShoalError(error)) throw new ShoalError(error.code, error.message)
            throw new ShoalError('INTERNAL', `${method} failed`)
          })
          const got = await Promise.race([answer, expired])
          if (cut() || random() < faults.lose) return await expired
          return structuredClone(got)
        })
      },
    }
  }

  const member = (name: string): Member => ({
    id: name,
    name,
    site: 'x',
    addrs: [],
    state: 'alive',
    incarnation: 0,
  })

  async function boot(host: Host): Promise<void> {
    const life: Life = { alive: true }
    host.life = life
    host.handlers.clear()
    say(`${host.name}: the daemon starts`)
    host.engine = await createEngine({
      self: host.name,
      find: member,
      rpc: rpcOf(host, life),
      records: recordsOf(host, life),
      runtimes: { get: async () => runtimeOf(host, life) },
      carrier: carrierOf(host, life),
      judge,
      health: async () => {
        await point(host, life, 'health', () => clock.sleep(between(0, 3000)))
        if (faults.unhealthy) throw new ShoalError('UNFIT', 'it does not answer')
      },
      clock,
      timings: TIMINGS,
      log: silentLog(),
    })
    host.engine.begin()
  }

  const entries = (): Entry[] =>
    hosts.flatMap(({ disk }) => [...disk.values()].map((text) => JSON.parse(text) as Entry))

  const copies = (): { host: string; id: string; state: string }[] =>
    hosts.flatMap(({ name, boxes }) =>
      [...boxes.values()].map(({ id, state }) => ({ host: name, id, state })),
    )

  s.boxes.set(ID, {
    id: ID,
    name: 'work',
    labels: {},
    state: 'running',
    count: 0,
    since: clock.now(),
    starting: 0,
    removed: false,
  })

  return { time, clock, s, t, violations, trace, entries, copies, boot, die, container: ID }
}
