import { spawn } from 'node:child_process'
import { readFile, stat } from 'node:fs/promises'
import { type Log, ShoalError } from '../../base/index.ts'
import { canonicalHost } from './hosts.ts'

/** What a registry may be told. `identityToken`: a refresh token, exchanged by POST at the token endpoint. */
export type Secret = { username: string; password: string } | { identityToken: string }

export interface DockerConfig {
  /** The entry for a host (`docker.io` for Docker Hub), undefined if there is none or it cannot be had. Never throws. */
  find(host: string, signal: AbortSignal): Promise<Secret | undefined>
}

interface Parsed {
  auths: Map<string, Secret>
  helpers: Map<string, string>
  store: string | undefined
}

const EMPTY: Parsed = { auths: new Map(), helpers: new Map(), store: undefined }
const HELPER_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]*$/
const HELPER_MS = 5000
const HELPER_BYTES = 64 * 1024

/** Reads docker's config.json, again whenever the file changes, so that a `docker login` is seen without a restart. */
export function createDockerConfig(options: { file: string; log: Log }): DockerConfig {
  const { file, log } = options
  let stamp = ''
  let parsed = EMPTY

  async function load(): Promise<Parsed> {
    try {
      const { mtimeMs, size, ino } = await stat(file)
      const now = `${mtimeMs}-${size}-${ino}`
      if (now === stamp) return parsed
      stamp = now
      parsed = EMPTY
      parsed = parse(JSON.parse(await readFile(file, 'utf8')))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') stamp = ''
      // The parser's message may quote the file, which holds secrets.
      else log.warn({ file, reason: (error as Error).name }, "docker's config.json cannot be read")
      parsed = EMPTY
    }
    return parsed
  }

  return {
    async find(host, signal) {
      const { auths, helpers, store } = await load()
      const helper = helpers.get(host) ?? store
      if (helper !== undefined) {
        try {
          const secret = await askHelper(helper, keyOf(host), signal)
          if (secret || helpers.has(host)) return secret
        } catch (error) {
          log.warn({ helper, host, err: error }, 'the credential helper failed')
        }
      }
      return auths.get(host)
    },
  }
}

/** Docker Hub's entries are kept under its old index address. */
function keyOf(host: string): string {
  return host === 'docker.io' ? 'https://index.docker.io/v1/' : host
}

/** `https://index.docker.io/v1/`, `ghcr.io`, `http://localhost:5000/v2/` -> `docker.io`, `ghcr.io`, `localhost:5000`. */
function hostOf(key: string): string {
  return canonicalHost(key.replace(/^https?:\/\//i, '').replace(/\/.*$/, ''))
}

function parse(json: unknown): Parsed {
  const root = record(json)
  const auths = new Map<string, Secret>()
  for (const [key, value] of Object.entries(record(root.auths))) {
    const secret = secretOf(record(value))
    if (secret) auths.set(hostOf(key), secret)
  }
  const helpers = new Map<string, string>()
  for (const [key, value] of Object.entries(record(root.credHelpers))) {
    if (typeof value === 'string') helpers.set(hostOf(key), value)
  }
  const store = typeof root.credsStore === 'string' && root.credsStore !== '' ? root.credsStore : undefined
  return { auths, helpers, store }
}

function secretOf(entry: Record<string, unknown>): Secret | undefined {
  if (typeof entry.identitytoken === 'string' && entry.identitytoken !== '') {
    return { identityToken: entry.identitytoken }
  }
  if (typeof entry.auth === 'string' && entry.auth !== '') {
    const text = Buffer.from(entry.auth, 'base64').toString('utf8')
    const colon = text.indexOf(':')
    if (colon > 0) {
      return { username: text.slice(0, colon), password: text.slice(colon + 1).replace(/\0+$/, '') }
    }
  }
  if (typeof entry.username === 'string' && typeof entry.password === 'string' && entry.username !== '') {
    return { username: entry.username, password: entry.password }
  }
  return undefined
}

function record(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {}
}

/** The protocol of docker-credential-helpers: the server on stdin, JSON on stdout; it exits with 1 when it has nothing. */
function askHelper(name: string, server: string, signal: AbortSignal): Promise<Secret | undefined> {
  return new Promise((resolve, reject) => {
    if (!HELPER_NAME.test(name))
      return reject(new ShoalError('CONFIG', 'not the name of a credential helper'))
    const child = spawn(`docker-credential-${name}`, ['get'], {
      stdio: ['pipe', 'pipe', 'ignore'],
      signal: AbortSignal.any([signal, AbortSignal.timeout(HELPER_MS)]),
      killSignal: 'SIGKILL',
    })
    let output = ''
    child.stdout.setEncoding('utf8')
    child.stdout.on('data', (text: string) => {
      output += text
      if (output.length > HELPER_BYTES) child.kill('SIGKILL')
    })
    child.stdin.on('error', () => {})
    child.on('error', reject)
    child.on('close', (code) => {
      if (code === 1) return resolve(undefined)
      if (code !== 0) return reject(new ShoalError('CONFIG', `docker-credential-${name} ended with ${code}`))
      try {
        const answer = record(JSON.parse(output))
        const { Username: username, Secret: secret } = answer
        if (typeof username !== 'string' || typeof secret !== 'string' || secret === '')
          return resolve(undefined)
        resolve(username === '<token>' ? { identityToken: secret } : { username, password: secret })
      } catch {
        reject(new ShoalError('CONFIG', `docker-credential-${name} did not answer in JSON`))
      }
    })
    child.stdin.end(server)
  })
}
