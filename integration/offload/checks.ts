import { ShoalError } from '../../base/index.ts'
import type { AppSpec, PodSpec } from './types.ts'

const MAX_PODS = 32
const MAX_PORTS = 32
const MAX_ARGS = 128
const MAX_ENV = 128
const MAX_TEXT = 4096
/** A pod's name becomes part of a container's. */
const POD_NAME = /^[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?$/
const ENV_NAME = /^[A-Za-z_][A-Za-z0-9_.-]{0,255}$/

function refuse(what: string): never {
  throw new ShoalError('USAGE', what)
}

function text(value: unknown, what: string, max = MAX_TEXT): string {
  if (typeof value !== 'string' || value.length > max || value.includes('\0')) {
    refuse(`${what} must be a text of at most ${max} characters`)
  }
  return value
}

function amount(value: unknown, what: string, max: number): number {
  if (typeof value !== 'number' || !(value >= 0) || value > max)
    refuse(`${what} must be a number from 0 to ${max}`)
  return value
}

function list(value: unknown, what: string, max: number): unknown[] {
  if (!Array.isArray(value) || value.length > max) refuse(`${what} must be a list of at most ${max}`)
  return value
}

/** @throws USAGE */
export function checkPod(value: unknown): PodSpec {
  const pod = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>
  const name = text(pod.name, 'the name of a pod', 32)
  if (!POD_NAME.test(name)) refuse(`a pod's name is made of lower case letters, digits and -: ${name}`)
  const env: Record<string, string> = {}
  const given = Object.entries((pod.env ?? {}) as Record<string, unknown>)
  if (given.length > MAX_ENV) refuse(`pod ${name}: at most ${MAX_ENV} variables`)
  for (const [key, entry] of given) {
    if (!ENV_NAME.test(key)) refuse(`pod ${name}: not a variable's name: ${key.slice(0, 64)}`)
    env[key] = text(entry, `pod ${name}: ${key}`)
  }
  const ports = list(pod.ports ?? [], `pod ${name}: ports`, MAX_PORTS).map((port) => {
    if (!Number.isInteger(port) || (port as number) < 1 || (port as number) > 65535)
      refuse(`pod ${name}: not a port: ${port}`)
    return port as number
  })
  if (new Set(ports).size < ports.length) refuse(`pod ${name}: a port is named twice`)
  const image = text(pod.image, `pod ${name}: image`, 512)
  // It becomes an argument of a command.
  if (!/^[A-Za-z0-9[]/.test(image)) refuse(`pod ${name}: not an image: ${image}`)
  return {
    name,
    image,
    ui: pod.ui === true,
    args: list(pod.args ?? [], `pod ${name}: args`, MAX_ARGS).map((arg) => text(arg, `pod ${name}: args`)),
    env,
    cpu: amount(pod.cpu ?? 0, `pod ${name}: cpu`, 4096),
    memory: amount(pod.memory ?? 0, `pod ${name}: memory`, 2 ** 50),
    storage: amount(pod.storage ?? 0, `pod ${name}: storage`, 2 ** 60),
    ports,
  }
}

/** Checks what a UE or another node says of an application. @throws USAGE */
export function checkApp(value: unknown): AppSpec {
  const app = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>
  const pods = list(app.pods, 'pods', MAX_PODS).map(checkPod)
  if (pods.length === 0) refuse('an application has at least one pod')
  if (new Set(pods.map(({ name }) => name)).size < pods.length) refuse('two pods have the same name')
  return {
    name: text(app.name, 'the name', 128),
    pods,
    requiredDelayMs:
      app.requiredDelayMs == null ? undefined : amount(app.requiredDelayMs, 'requiredDelayMs', 3600e3),
    executionTimeS:
      app.executionTimeS == null ? undefined : amount(app.executionTimeS, 'executionTimeS', 3e8),
    priority: amount(app.priority ?? 0, 'priority', 1e6),
  }
}
