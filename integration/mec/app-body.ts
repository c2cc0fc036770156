import type { App, AppSpec, PodSpec } from '../offload/types.ts'
import { member, type Reader, readBody } from './fields.ts'
import { formatCpu, formatQuantity, parseCpu, parseQuantity } from './units.ts'

export const MAX_PODS = 16
const APP_FIELDS = ['name', 'pods', 'requiredDelayMs', 'executionTimeS', 'priority'] as const
const POD_FIELDS = ['name', 'image', 'ui', 'args', 'env', 'cpu', 'memory', 'storage', 'ports'] as const

/** As Kubernetes names pods: it is part of host names and container names. */
const LABEL = /^[a-z0-9]([a-z0-9-]*[a-z0-9])?$/
const MAX_CORES = 1024
const MAX_BYTES = 2 ** 50

function readAmount(
  r: Reader,
  value: unknown,
  field: string,
  {
    parse,
    form,
    min,
    max,
  }: { parse: (text: string) => number | undefined; form: string; min: number; max: number },
): number {
  const text = r.text(value, field, { max: 32 })
  if (text === '') return 0
  const amount = parse(text)
  if (amount === undefined) r.fault(field, `must be ${form}`)
  else if (amount < min || amount > max) r.fault(field, 'is out of all proportion')
  return amount ?? 0
}

const BYTES = { parse: parseQuantity, form: 'a quantity such as "64Mi", "100M" or "1Gi"', max: MAX_BYTES }

function readEnv(r: Reader, value: unknown, field: string): Record<string, string> {
  const env: Record<string, string> = {}
  const given = Object.entries(r.record(value, field))
  if (given.length > 128) r.fault(field, 'must have 128 members at most')
  for (const [name, text] of given.slice(0, 128)) {
    const at = member(field, name.slice(0, 80))
    if (!/^[A-Za-z_][A-Za-z0-9_]{0,127}$/.test(name)) r.fault(at, 'is no name of a variable')
    // Not text(): an empty value is a value. A NUL ends a string for the kernel.
    if (typeof text !== 'string' || text.length > 4096 || text.includes('\0')) {
      r.fault(at, 'must be a string of 4096 characters at most')
    } else env[name] = text
  }
  return env
}

function readPod(r: Reader, value: unknown, field: string): PodSpec {
  const given = r.record(value, field, POD_FIELDS)
  const at = (name: string): string => member(field, name)
  const ports = r.list(given.ports ?? [], at('ports'), { max: 16 }, (item, where) =>
    r.whole(item, where, { min: 1, max: 65535 }),
  )
  if (new Set(ports).size < ports.length) r.fault(at('ports'), 'must not name a port twice')
  return {
    name: r.text(given.name, at('name'), {
      max: 32,
      pattern: LABEL,
      form: 'lower-case letters, digits and dashes, beginning and ending with no dash',
    }),
    image: r.text(given.image, at('image'), {
      max: 512,
      pattern: /^[A-Za-z0-9][\x21-\x7e]*$/,
      form: 'an image name such as docker.io/library/redis:7',
    }),
    ui: r.flag(given.ui ?? false, at('ui')),
    args: r.list(given.args ?? [], at('args'), { max: 128 }, (item, where) => {
      if (typeof item === 'string' && item.length <= 4096 && !item.includes('\0')) return item
      r.fault(where, 'must be a string of 4096 characters at most')
      return ''
    }),
    env: readEnv(r, given.env ?? {}, at('env')),
    cpu: readAmount(r, given.cpu, at('cpu'), {
      parse: parseCpu,
      form: 'cores, such as "250m" or "1"',
      min: 0.001,
      max: MAX_CORES,
    }),
    memory: readAmount(r, given.memory, at('memory'), { ...BYTES, min: 1 }),
    storage: readAmount(r, given.storage ?? '0', at('storage'), { ...BYTES, min: 0 }),
    ports,
  }
}

/** An application as kube-mec's devices describe it, from a member of a body. */
export function readApp(r: Reader, value: unknown, field: string): AppSpec {
  const given = r.record(value, field, APP_FIELDS)
  const at = (name: string): string => member(field, name)
  const pods = r.list(given.pods, at('pods'), { min: 1, max: MAX_PODS }, (item, where) =>
    readPod(r, item, where),
  )
  const names = pods.map(({ name }) => name).filter((name) => name !== '')
  if (new Set(names).size < names.length) r.fault(at('pods'), 'must not have two pods of one name')
  return {
    name: r.text(given.name, at('name'), {
      max: 32,
      pattern: /^[^\p{Cc}]+$/u,
      form: 'without control characters',
    }),
    pods,
    requiredDelayMs: r.optional(given.requiredDelayMs, (delay) => {
      if (typeof delay === 'number' && delay > 0 && delay <= 60_000) return delay
      r.fault(at('requiredDelayMs'), 'must be a number of more than 0, 60000 at most')
      return undefined
    }),
    executionTimeS: r.optional(given.executionTimeS, (time) =>
      r.whole(time, at('executionTimeS'), { min: 1, max: 366 * 86400 }),
    ),
    priority: r.whole(given.priority ?? 0, at('priority'), { min: 0, max: 1000 }),
  }
}

/** @throws USAGE */
export function parseApp(body: unknown): AppSpec {
  return readBody((r) => readApp(r, body, ''))
}

/** An application as devices see it; the members of its description are in the units that they came in. */
export function appView(app: App, contextId?: string): Record<string, unknown> {
  const { spec } = app
  return {
    id: app.id,
    name: spec.name,
    state: app.state,
    ...(spec.requiredDelayMs === undefined ? {} : { requiredDelayMs: spec.requiredDelayMs }),
    ...(spec.executionTimeS === undefined ? {} : { executionTimeS: spec.executionTimeS }),
    priority: spec.priority,
    pods: spec.pods.map((pod) => {
      const status = app.pods.find(({ name }) => name === pod.name)
      return {
        name: pod.name,
        image: pod.image,
        ui: pod.ui,
        args: pod.args,
        env: pod.env,
        cpu: formatCpu(pod.cpu),
        memory: formatQuantity(pod.memory),
        storage: formatQuantity(pod.storage),
        ports: pod.ports,
        state: status?.state ?? 'pending',
        ...present({
          node: status?.node,
          referenceURI: status?.referenceURI,
          startedMs: status?.startedMs,
          reason: status?.reason,
        }),
      }
    }),
    reasons: app.reasons,
    createdAt: app.createdAt,
    ...(contextId === undefined ? {} : { contextId }),
  }
}

/** Without the members that are undefined. */
export function present(given: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
}
