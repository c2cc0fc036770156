import { ShoalError } from '../../base/index.ts'
import type { HealthCheck, MigrationRequest, RuntimeName } from '../../integration/index.ts'
import { members } from './bodies.ts'

const RUNTIMES = ['containerd', 'docker', 'runc']
const MAX_ROUNDS = 100

/** What is asked for, before it is known which runtime has the container. */
export type MigrationWanted = Omit<MigrationRequest, 'runtime'> & { runtime?: RuntimeName }

function name(value: unknown, what: string): string {
  if (typeof value !== 'string' || !/^[\w.:/-]{1,256}$/.test(value)) {
    throw new ShoalError('USAGE', `${what} must be a name or an ID`)
  }
  return value
}

function healthOf(value: unknown): HealthCheck {
  const { kind } = (value ?? {}) as { kind?: unknown }
  if (kind === 'exec') {
    const { args } = members(value, ['kind', 'args'])
    const sound = Array.isArray(args) && args.length > 0 && args.length <= 64
    if (sound && args.every((arg) => typeof arg === 'string')) return { kind, args }
    throw new ShoalError('USAGE', 'health.args must be a command and its arguments')
  }
  if (kind === 'http') {
    const { url } = members(value, ['kind', 'url'])
    if (typeof url === 'string' && url.startsWith('http://') && URL.canParse(url)) return { kind, url }
    throw new ShoalError('USAGE', 'health.url must begin with http://')
  }
  if (kind === 'tcp') {
    const { host, port } = members(value, ['kind', 'host', 'port'])
    const sound = Number.isInteger(port) && (port as number) > 0 && (port as number) < 65536
    if (sound && typeof host === 'string' && /^[\w.:-]{1,253}$/.test(host)) {
      return { kind, host, port: port as number }
    }
    throw new ShoalError('USAGE', 'health wants a host and a port')
  }
  throw new ShoalError('USAGE', 'health.kind must be exec, http or tcp')
}

/** @throws USAGE */
export function migrationRequest(body: unknown): MigrationWanted {
  const known = ['container', 'runtime', 'to', 'rounds', 'health', 'tcpEstablished']
  const { container, runtime, to, rounds, health, tcpEstablished } = members(body, known)
  if (runtime !== undefined && !RUNTIMES.includes(runtime as string)) {
    throw new ShoalError('USAGE', `runtime must be one of ${RUNTIMES.join(', ')}`)
  }
  if (
    rounds !== undefined &&
    !(Number.isInteger(rounds) && (rounds as number) >= 0 && (rounds as number) <= MAX_ROUNDS)
  ) {
    throw new ShoalError('USAGE', `rounds must be a number from 0 to ${MAX_ROUNDS}`)
  }
  if (tcpEstablished !== undefined && typeof tcpEstablished !== 'boolean') {
    throw new ShoalError('USAGE', 'tcpEstablished must be true or false')
  }
  return {
    container: name(container, 'container'),
    to: name(to, 'to'),
    ...(runtime === undefined ? {} : { runtime: runtime as RuntimeName }),
    ...(rounds === undefined ? {} : { rounds: rounds as number }),
    ...(health === undefined ? {} : { health: healthOf(health) }),
    ...(tcpEstablished === undefined ? {} : { tcpEstablished }),
  }
}

/** @throws USAGE */
export function decision(body: unknown): 'source' | 'target' {
  const { side } = members(body, ['side'])
  if (side !== 'source' && side !== 'target') throw new ShoalError('USAGE', 'side must be source or target')
  return side
}
