import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { readdir } from 'node:fs/promises'
import { connect } from 'node:net'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { type Digest, digestOf } from '../../base/index.ts'
import type { StoredImage, Storing } from '../../manager/storing/types.ts'
import { type Answer, codeOf, type Node, node } from './registry-tools.ts'

export const OCI_MANIFEST = 'application/vnd.oci.image.manifest.v1+json'
export const OCI_INDEX = 'application/vnd.oci.image.index.v1+json'
export const LAYER = 'application/vnd.oci.image.layer.v1.tar'
export const CONFIG = 'application/vnd.oci.image.config.v1+json'

/** A node to push to; it has no upstream. */
export function pushNode(t: TestContext, options: Parameters<typeof node>[2] = {}): Promise<Node> {
  return node(t, { url: 'http://127.0.0.1:1' }, options)
}

export function bytesOf(size: number): Buffer {
  return randomBytes(size)
}

/** A relative Location as a client uses it, with a further query. */
export function locationOf(answer: Answer, query = ''): string {
  const location = String(answer.headers.location)
  assert.match(location, /^\/v2\//)
  if (query === '') return location
  return `${location}${location.includes('?') ? '&' : '?'}${query}`
}

export async function begin(on: Node, name: string): Promise<string> {
  const answer = await on.get(`/v2/${name}/blobs/uploads/`, {}, 'POST')
  assert.equal(answer.status, 202)
  return locationOf(answer)
}

export async function pushBlob(on: Node, name: string, bytes: Buffer): Promise<Digest> {
  const digest = digestOf(bytes)
  const answer = await on.get(`/v2/${name}/blobs/uploads/?digest=${digest}`, {}, 'POST', bytes)
  assert.equal(answer.status, 201, answer.body.toString())
  return digest
}

export interface Described {
  digest: Digest
  size: number
  mediaType: string
}

export function describe(bytes: Buffer, mediaType: string): Described {
  return { digest: digestOf(bytes), size: bytes.length, mediaType }
}

export function putManifest(
  on: Node,
  name: string,
  reference: string,
  manifest: object | Buffer,
  type: string | undefined = OCI_MANIFEST,
): Promise<Answer> {
  const bytes = Buffer.isBuffer(manifest) ? manifest : Buffer.from(JSON.stringify(manifest))
  const headers = type === undefined ? {} : { 'Content-Type': type }
  return on.get(`/v2/${name}/manifests/${reference}`, headers as Record<string, string>, 'PUT', bytes)
}

export interface Image {
  manifest: Record<string, unknown>
  bytes: Buffer
  digest: Digest
  config: Buffer
  layer: Buffer
}

/** Pushes an image of one layer, with `extra` in its manifest, under a tag or, without one, by its digest. */
export async function pushImage(
  on: Node,
  name: string,
  tag?: string,
  extra: Record<string, unknown> = {},
): Promise<Image> {
  const config = Buffer.from(JSON.stringify({ os: 'linux', nonce: randomBytes(4).toString('hex') }))
  const layer = randomBytes(3000)
  await pushBlob(on, name, config)
  await pushBlob(on, name, layer)
  const manifest = {
    schemaVersion: 2,
    mediaType: OCI_MANIFEST,
    config: describe(config, CONFIG),
    layers: [describe(layer, LAYER)],
    ...extra,
  }
  const bytes = Buffer.from(JSON.stringify(manifest))
  const digest = digestOf(bytes)
  const answer = await putManifest(on, name, tag ?? digest, bytes)
  assert.equal(answer.status, 201, answer.body.toString())
  return { manifest, bytes, digest, config, layer }
}

export function assertRefused(answer: Answer, status: number, code: string): void {
  assert.equal(answer.status, status, answer.body.toString())
  assert.equal(codeOf(answer), code)
  assert.match(String(answer.headers['content-type']), /^application\/json/)
}

/** A connection to send on as slowly or as long as a test likes. */
export function talk(base: string) {
  const { hostname, port } = new URL(base)
  const socket = connect(Number(port), hostname)
  let text = ''
  socket.on('data', (part) => {
    text += part.toString('latin1')
  })
  socket.on('error', () => {})
  const closed = new Promise((resolve) => socket.on('close', resolve))
  return { socket, closed, heard: () => text }
}

/** Files of uploads that are there. */
export function leftOf(on: Node): Promise<string[]> {
  return readdir(join(on.dir, 'uploads'))
}

/** Sends bytes as they are and gives what comes back until the connection ends. */
export function raw(
  base: string,
  parts: (string | Buffer)[],
  options: { end?: boolean } = {},
): Promise<string> {
  const { hostname, port } = new URL(base)
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port), hostname)
    let text = ''
    socket.on('data', (part) => {
      text += part.toString('latin1')
    })
    socket.on('error', (error: NodeJS.ErrnoException) => (text === '' ? reject(error) : resolve(text)))
    socket.on('close', () => resolve(text))
    for (const part of parts) socket.write(part)
    // What comes together with the connection's end is lost.
    if (options.end) setTimeout(() => socket.end(), 200)
  })
}

/** The storing part of a site: it notes what it is asked for, and fails when told to. */
export function fakeStoring() {
  const stored = new Map<string, Omit<StoredImage, 'site'>>()
  const fake = {
    stored,
    asked: 0,
    fails: undefined as Error | undefined,
    gate: undefined as Promise<void> | undefined,
    storing: {
      async store(image, { signal }) {
        fake.asked++
        await fake.gate
        signal.throwIfAborted()
        if (fake.fails) throw fake.fails
        stored.set(image.name, image)
      },
      forget: async (name) => stored.delete(name),
    } satisfies Pick<Storing, 'store' | 'forget'>,
  }
  return fake
}
