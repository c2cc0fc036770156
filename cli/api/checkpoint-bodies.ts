import { ShoalError } from '../../base/index.ts'
import type { RuntimeName, ScheduleRequest } from '../../integration/index.ts'
import { members } from './bodies.ts'
import type { CreateWanted, RestoreWanted } from './checkpoint-jobs.ts'

const RUNTIMES = ['containerd', 'docker', 'runc']
const MAX_COPIES = 1024
const MAX_NODES = 64
const MAX_MS = 100 * 365 * 24 * 3_600_000

function text(value: unknown, what: string): string {
  if (typeof value !== 'string' || !/^[\w.:@/-]{1,256}$/.test(value)) {
    throw new ShoalError('USAGE', `${what} must be a name or an ID`)
  }
  return value
}

function flag(value: unknown, what: string): boolean {
  if (value !== undefined && typeof value !== 'boolean')
    throw new ShoalError('USAGE', `${what} must be true or false`)
  return value === true
}

function number(value: unknown, what: string, most: number): number {
  if (!Number.isInteger(value) || (value as number) < 1 || (value as number) > most) {
    throw new ShoalError('USAGE', `${what} must be a number from 1 to ${most}`)
  }
  return value as number
}

function optional<K extends string, T>(
  name: K,
  value: unknown,
  read: (value: unknown) => T,
): { [key in K]?: T } {
  return value === undefined ? {} : ({ [name]: read(value) } as { [key in K]?: T })
}

function runtimeOf(value: unknown): RuntimeName {
  if (!RUNTIMES.includes(value as string)) {
    throw new ShoalError('USAGE', `runtime must be one of ${RUNTIMES.join(', ')}`)
  }
  return value as RuntimeName
}

function nodesOf(value: unknown): string[] {
  if (!Array.isArray(value) || value.length === 0 || value.length > MAX_NODES) {
    throw new ShoalError('USAGE', `encryptFor must be a list of 1 to ${MAX_NODES} nodes`)
  }
  return value.map((one) => text(one, 'a node'))
}

/** @throws USAGE */
export function createRequest(body: unknown): CreateWanted {
  const known = ['container', 'runtime', 'name', 'leaveRunning', 'copies', 'encryptFor', 'expiresInMs']
  const { container, runtime, name, leaveRunning, copies, encryptFor, expiresInMs } = members(body, known)
  return {
    what: 'create',
    reference: text(container, 'container'),
    leaveRunning: flag(leaveRunning, 'leaveRunning'),
    ...optional('runtime', runtime, runtimeOf),
    ...optional('name', name, (value) => text(value, 'name')),
    ...optional('copies', copies, (value) => number(value, 'copies', MAX_COPIES)),
    ...optional('encryptFor', encryptFor, nodesOf),
    ...optional('expiresInMs', expiresInMs, (value) => number(value, 'expiresInMs', MAX_MS)),
  }
}

/** @throws USAGE */
export function restoreRequest(body: unknown): RestoreWanted {
  const { checkpoint, runtime, name } = members(body, ['checkpoint', 'runtime', 'name'])
  return {
    what: 'restore',
    reference: text(checkpoint, 'checkpoint'),
    ...optional('runtime', runtime, runtimeOf),
    ...optional('name', name, (value) => text(value, 'name')),
  }
}

/** A plan, before it is known which runtime has the container. @throws USAGE */
export function scheduleRequest(body: unknown): Omit<ScheduleRequest, 'runtime'> & { runtime?: RuntimeName } {
  const known = ['container', 'runtime', 'name', 'everyMs', 'keep', 'copies', 'encryptFor']
  const { container, runtime, name, everyMs, keep, copies, encryptFor } = members(body, known)
  return {
    container: text(container, 'container'),
    everyMs: number(everyMs, 'everyMs', MAX_MS),
    ...optional('runtime', runtime, runtimeOf),
    ...optional('name', name, (value) => text(value, 'name')),
    ...optional('keep', keep, (value) => number(value, 'keep', 1000)),
    ...optional('copies', copies, (value) => number(value, 'copies', MAX_COPIES)),
    ...optional('encryptFor', encryptFor, nodesOf),
  }
}
