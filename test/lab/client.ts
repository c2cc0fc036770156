import { Agent, type IncomingMessage, request } from 'node:http'
import { parseArgs } from 'node:util'
import { hasherFor, parseDigest } from '../../base/index.ts'
import { getBulk } from './bulk.ts'
import { ARCH, MEDIA } from './image.ts'

export interface BlobTiming {
  digest: string
  bytes: number
  /** ms from the request to the first byte of the body, and to the last. */
  firstByteMs: number
  totalMs: number
  ok: boolean
  error?: string
}

export interface PullReport {
  ok: boolean
  error?: string
  /** ms from the first request to the last byte. */
  totalMs: number
  /** ms until the image's manifest was here. */
  manifestMs: number
  bytes: number
  blobs: BlobTiming[]
  /** Of the tag's manifest or index, as computed from its bytes. */
  digest: string
}

export interface PullOptions {
  /** `http://HOST:PORT/v2`, or with a path prefix behind it that goes before the name. */
  base: string
  name: string
  /** Tag or digest. */
  reference: string
  concurrency?: number
  verify?: boolean
  /** `USER:PASSWORD` for Basic. */
  auth?: string
  /** Query for every request, e.g. `ns=docker.io`. */
  query?: string
  /** ms without a byte after which a request has failed; default 60 s. */
  stallMs?: number
}

const ACCEPT = [MEDIA.oci, MEDIA.docker].flatMap((m) => [m.index, m.manifest]).join(', ')

/** Pulls an image as a runtime does (manifest, then config and layers in parallel) and keeps nothing but the times. */
export async function pull(options: PullOptions): Promise<PullReport> {
  const from = performance.now()
  const agent = new Agent({ keepAlive: true })
  const ask = asking(options)
  const report: PullReport = { ok: false, totalMs: 0, manifestMs: 0, bytes: 0, blobs: [], digest: '' }
  try {
    const get = getter(ask, agent)
    const first = await manifest(get, options.reference)
    report.digest = first.digest
    report.bytes += first.size
    let content = first.content
    const own = content.manifests?.find((m) => m.platform?.architecture === ARCH)
    if (own !== undefined) {
      const second = await manifest(get, own.digest)
      report.bytes += second.size
      content = second.content
    }
    report.manifestMs = performance.now() - from
    const wanted = [content.config, ...(content.layers ?? [])].flatMap((d) => (d === undefined ? [] : [d]))
    const queue = [...new Map(wanted.map((d) => [d.digest, d])).values()]
    const worker = async () => {
      for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
        report.blobs.push(await blob({ ask, get, wanted: next, verify: options.verify ?? true }))
      }
    }
    await Promise.all(Array.from({ length: options.concurrency ?? 3 }, worker))
    for (const timing of report.blobs) report.bytes += timing.bytes
    const bad = report.blobs.find((timing) => !timing.ok)
    report.ok = bad === undefined
    if (bad !== undefined) report.error = `${bad.digest}: ${bad.error}`
  } catch (error) {
    report.error = error instanceof Error ? error.message : String(error)
  } finally {
    agent.destroy()
  }
  report.totalMs = performance.now() - from
  return report
}

interface Descriptor {
  digest: string
  size: number
  platform?: { architecture: string }
}

interface Content {
  manifests?: Descriptor[]
  config?: Descriptor
  layers?: Descriptor[]
}

type Get = (path: string) => Promise<IncomingMessage>

interface Ask {
  urlOf(path: string): URL
  headers: Record<string, string>
  stallMs: number
}

function asking(options: PullOptions): Ask {
  const headers: Record<string, string> = { Accept: ACCEPT, 'User-Agent': 'lab-client' }
  if (options.auth !== undefined)
    headers.Authorization = `Basic ${Buffer.from(options.auth).toString('base64')}`
  const query = options.query === undefined ? '' : `?${options.query}`
  return {
    headers,
    stallMs: options.stallMs ?? 60_000,
    urlOf: (path) => new URL(`${options.base}/${options.name}/${path}${query}`),
  }
}

function getter({ urlOf, headers, stallMs }: Ask, agent: Agent): Get {
  return (path) =>
    new Promise((resolve, reject) => {
      const url = urlOf(path)
      const req = request(url, { agent, headers, timeout: stallMs }, (response) => {
        if (response.statusCode === 200) return resolve(response)
        let text = ''
        response.setEncoding('utf8').on('data', (part: string) => {
          text += part
        })
        response.on('error', reject)
        response.on('end', () =>
          reject(new Error(`${response.statusCode} for ${path}: ${text.slice(0, 300)}`)),
        )
      })
      req.on('timeout', () => req.destroy(new Error(`nothing came for ${stallMs} ms`)))
      req.on('error', reject)
      req.end()
    })
}

async function manifest(get: Get, reference: string) {
  const response = await get(`manifests/${reference}`)
  const parts: Buffer[] = []
  for await (const part of response) parts.push(part as Buffer)
  const bytes = Buffer.concat(parts)
  const asked = reference.includes(':') ? reference : undefined
  const digest = `sha256:${hasherFor('sha256:').update(bytes).digest('hex')}`
  if (asked !== undefined && asked !== digest) throw new Error(`manifest ${asked} has digest ${digest}`)
  return { digest, size: bytes.length, content: JSON.parse(bytes.toString()) as Content }
}

async function blob(order: { ask: Ask; get: Get; wanted: Descriptor; verify: boolean }): Promise<BlobTiming> {
  const { ask, get, wanted, verify } = order
  const path = `blobs/${wanted.digest}`
  const from = performance.now()
  const timing: BlobTiming = { digest: wanted.digest, bytes: 0, firstByteMs: 0, totalMs: 0, ok: false }
  const hash = verify ? hasherFor(parseDigest(wanted.digest)) : undefined
  const onBytes = (bytes: Uint8Array): void => {
    if (timing.bytes === 0) timing.firstByteMs = performance.now() - from
    timing.bytes += bytes.length
    hash?.update(bytes)
  }
  try {
    const url = ask.urlOf(path)
    if (!(await getBulk({ ...ask, url, onBytes }))) {
      const response = await get(path)
      await new Promise<void>((resolve, reject) => {
        response.on('data', onBytes)
        response.on('end', () => resolve())
        response.on('error', reject)
      })
    }
    timing.ok =
      timing.bytes === wanted.size &&
      (hash === undefined || wanted.digest === `${wanted.digest.split(':')[0]}:${hash.digest('hex')}`)
    if (!timing.ok) timing.error = `wrong bytes (${timing.bytes} of ${wanted.size})`
  } catch (error) {
    timing.error = error instanceof Error ? error.message : String(error)
  }
  timing.totalMs = performance.now() - from
  return timing
}

const USAGE = `client.ts pull BASE NAME REFERENCE [--concurrency 3] [--no-verify] [--auth USER:PASSWORD]
                [--query ns=docker.io] [--stall MS] [--at EPOCH_MS]`

if (import.meta.main) {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      concurrency: { type: 'string', default: '3' },
      'no-verify': { type: 'boolean', default: false },
      verify: { type: 'boolean', default: true },
      auth: { type: 'string' },
      query: { type: 'string' },
      stall: { type: 'string' },
      at: { type: 'string' },
    },
  })
  const [command, base, name, reference] = positionals
  if (command !== 'pull' || base === undefined || name === undefined || reference === undefined) {
    process.stderr.write(`${USAGE}\n`)
    process.exit(2)
  }
  // Many clients that shall start at the same moment are started before it, and wait.
  const wait = values.at === undefined ? 0 : Number(values.at) - Date.now()
  if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait))
  const report = await pull({
    base,
    name,
    reference,
    concurrency: Number(values.concurrency),
    verify: values.verify && !values['no-verify'],
    ...(values.auth === undefined ? {} : { auth: values.auth }),
    ...(values.query === undefined ? {} : { query: values.query }),
    ...(values.stall === undefined ? {} : { stallMs: Number(values.stall) }),
  })
  process.stdout.write(`${JSON.stringify(report)}\n`)
  process.exitCode = report.ok ? 0 : 1
}
