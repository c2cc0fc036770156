import { readFile, stat } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { errnoOf, ShoalError } from '../base/index.ts'
import type { StoreWanted } from './api/storings.ts'
import { nearest } from './nearest.ts'
import { SETTING_NAMES, SETTINGS, type Setting } from './settings.ts'

export interface Credential {
  username: string
  password: string
}

export interface ConfigFile {
  /** By setting: one text, or several where the setting takes several. */
  values: Map<string, string | string[]>
  /** By registry host. */
  credentials: Record<string, Credential>
  /** Images that the site shall always be able to start. */
  store: StoreWanted[]
  warnings: string[]
}

/** What stands only in the file. */
const OTHER_KEYS = ['credentials', 'store']

function bad(file: string, what: string): ShoalError {
  return new ShoalError('CONFIG', `${file}: ${what}`)
}

async function text(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8')
  } catch (cause) {
    throw new ShoalError('CONFIG', `cannot read ${file}: ${errnoOf(cause) ?? 'unknown error'}`, { cause })
  }
}

function unknown(file: string, key: string, known: Iterable<string>): ShoalError {
  const near = nearest(key, known)
  const close = near && (near.distance <= Math.max(2, key.length / 2) || near.name.includes(key))
  const hint = close ? `; did you mean "${near.name}"?` : ''
  return bad(file, `unknown key "${key}"${hint}`)
}

function scalar(file: string, key: string, value: unknown): string {
  if (typeof value === 'string') return value
  if (typeof value === 'number' || typeof value === 'boolean') return String(value)
  throw bad(file, `"${key}" must be a plain value`)
}

function isMapping(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** A setting's value in the file, as the flags would have given it. */
function raw(file: string, setting: Setting, value: unknown): string | string[] {
  const absolute = (path: string): string =>
    setting.path && !path.includes('://') ? resolve(dirname(file), path) : path
  if (setting.map) {
    if (!isMapping(value)) throw bad(file, `"${setting.name}" must be a mapping`)
    return Object.entries(value).map(([key, item]) => `${key}=${scalar(file, setting.name, item)}`)
  }
  if (setting.list) {
    const items = Array.isArray(value) ? value : [value]
    return items.map((item) => absolute(scalar(file, setting.name, item)))
  }
  if (setting.argument === undefined && typeof value !== 'boolean') {
    throw bad(file, `"${setting.name}" must be true or false`)
  }
  return absolute(scalar(file, setting.name, value))
}

async function credential(file: string, host: string, value: unknown): Promise<Credential> {
  const where = `credentials of ${host}`
  if (!isMapping(value)) throw bad(file, `the ${where} must be a mapping`)
  const known = ['username', 'password', 'password-file']
  for (const key of Object.keys(value)) if (!known.includes(key)) throw unknown(file, key, known)
  const username = value.username
  if (typeof username !== 'string') throw bad(file, `the ${where} need a username`)
  const given = [value.password, value['password-file']].filter((item) => item !== undefined)
  if (given.length !== 1) throw bad(file, `the ${where} need either a password or a password-file`)
  if (value.password !== undefined) return { username, password: scalar(file, 'password', value.password) }
  const path = resolve(dirname(file), scalar(file, 'password-file', value['password-file']))
  return { username, password: (await text(path)).replace(/\r?\n$/, '') }
}

/** An entry of `store`: `{ image, copies, platform? }`, `platform: all` for all that an image is made for. */
function wanted(file: string, value: unknown): StoreWanted {
  if (!isMapping(value)) throw bad(file, '"store" must be a list of { image, copies }')
  const known = ['image', 'copies', 'platform']
  for (const key of Object.keys(value)) if (!known.includes(key)) throw unknown(file, key, known)
  const { image: reference, copies, platform } = value
  if (typeof reference !== 'string' || !/^[\x21-\x7e]{1,512}$/.test(reference)) {
    throw bad(file, 'an entry of "store" needs an image, such as docker.io/library/redis:7')
  }
  if (!Number.isInteger(copies) || (copies as number) < 1) {
    throw bad(file, `the copies of ${reference} must be a number from 1 on`)
  }
  if (platform === undefined) return { reference, copies: copies as number }
  if (typeof platform !== 'string' || !/^(all|[a-z0-9]+\/[a-z0-9]+(\/[a-z0-9.]+)?)$/.test(platform)) {
    throw bad(file, `the platform of ${reference} must be OS/ARCH, OS/ARCH/VARIANT or all`)
  }
  return { reference, copies: copies as number, platform }
}

/**
 * Reads a YAML configuration file: the settings' names in kebab-case, `credentials` and `store`.
 * @throws ShoalError CONFIG when it cannot be read, is no YAML or has a key that is not known
 */
export async function readConfigFile(path: string): Promise<ConfigFile> {
  const file = resolve(path)
  const source = await text(file)
  // Most nodes are configured by flags: the parser is loaded only where there is a file.
  const { parse } = await import('yaml')
  let document: unknown
  try {
    document = parse(source) ?? {}
  } catch (cause) {
    throw new ShoalError('CONFIG', `${file}: ${(cause as Error).message.trim()}`, { cause })
  }
  if (!isMapping(document)) throw bad(file, 'must be a mapping of settings')

  const values = new Map<string, string | string[]>()
  const credentials: Record<string, Credential> = {}
  const warnings: string[] = []
  const byName = new Map(SETTINGS.map((setting) => [setting.name, setting]))
  for (const [key, value] of Object.entries(document)) {
    const setting = byName.get(key)
    if (setting) values.set(key, raw(file, setting, value))
    else if (!OTHER_KEYS.includes(key)) throw unknown(file, key, [...SETTING_NAMES, ...OTHER_KEYS])
  }
  if (document.credentials !== undefined) {
    if (!isMapping(document.credentials)) throw bad(file, '"credentials" must be a mapping of hosts')
    for (const [host, value] of Object.entries(document.credentials)) {
      credentials[host] = await credential(file, host, value)
    }
    if (((await stat(file)).mode & 0o004) !== 0) {
      warnings.push(`${file} holds credentials and everybody on this machine can read it; chmod 600 it`)
    }
  }
  const store = document.store ?? []
  if (!Array.isArray(store)) throw bad(file, '"store" must be a list of { image, copies }')
  return { values, credentials, store: store.map((entry) => wanted(file, entry)), warnings }
}
