import { createHash, randomUUID } from 'node:crypto'
import { mkdir, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type Digest, parseDigest, ShoalError } from '../../../base/index.ts'
import { run } from '../run.ts'
import type { ContainerdClient } from './client.ts'

/** Architectures as OCI has them (Go's GOARCH). */
const ARCHITECTURES: Partial<Record<NodeJS.Architecture, string>> = {
  x64: 'amd64',
  ia32: '386',
  ppc64: 'ppc64le',
}
const PULL_MS = 30 * 60_000
/** Manifests and configurations; larger ones are none. */
const DOCUMENT_BYTES = 8 * 2 ** 20

export interface LocalImage {
  reference: string
  /** Of its manifest or index, as containerd has it. */
  digest: Digest
  /** Name of the snapshot that its unpacked layers make; '' for an image without layers. */
  chainId: string
  entrypoint: string[]
  command: string[]
}

interface Configuration {
  rootfs?: { diff_ids?: string[] }
  config?: { Entrypoint?: string[] | null; Cmd?: string[] | null }
}

interface Descriptor {
  digest: string
  platform?: { os?: string; architecture?: string }
}

export interface PullOptions {
  client: ContainerdClient
  /** As containerd would have it: with its registry's host, and a tag or digest. */
  reference: string
  /** Shoal's own registry, HOST:PORT: everything comes through it, under the image's proper name. */
  registry: string
  /** For the file that says so to `ctr`. */
  dir: string
  /** Default: containerd's. */
  snapshotter?: string | undefined
  signal: AbortSignal
}

/**
 * Pulls an image into containerd and unpacks it. By `ctr`, since containerd 1.x leaves pulling to its clients.
 * @throws RUNTIME with what ctr said | TIMEOUT | ABORTED
 */
export async function pullImage(options: PullOptions): Promise<LocalImage> {
  const { client, reference, registry, dir, snapshotter, signal } = options
  const hostsDir = await writeHosts(dir, registry)
  const flags = ['--address', client.address, '--namespace', client.namespace]
  const chosen = snapshotter === undefined ? [] : ['--snapshotter', snapshotter]
  await run('ctr', [...flags, 'images', 'pull', '--hosts-dir', hostsDir, ...chosen, reference], {
    signal,
    timeoutMs: PULL_MS,
  })
  return inspectImage(client, reference, signal)
}

/** containerd's hosts.toml that has every registry stand behind Shoal's. */
async function writeHosts(dir: string, registry: string): Promise<string> {
  const hostsDir = join(dir, 'hosts')
  const url = `http://${registry}`
  await mkdir(join(hostsDir, '_default'), { recursive: true })
  const text = `server = "${url}"\n\n[host."${url}"]\n  capabilities = ["pull", "resolve"]\n`
  const file = join(hostsDir, '_default', 'hosts.toml')
  const made = `${file}.${randomUUID()}`
  await writeFile(made, text)
  await rename(made, file)
  return hostsDir
}

/** @throws NOT_FOUND when it, or what this machine needs of it, is not here */
export async function inspectImage(
  client: ContainerdClient,
  reference: string,
  signal: AbortSignal,
): Promise<LocalImage> {
  const { image } = await client.images.get({ name: reference }, { signal })
  const digest = parseDigest(image.target?.digest ?? '')
  const manifest = await manifestOf(client, digest, signal)
  const { rootfs, config } = await readDocument<Configuration>(client, manifest.config.digest, signal)
  return {
    reference,
    digest,
    chainId: chainOf(rootfs?.diff_ids ?? []),
    entrypoint: config?.Entrypoint ?? [],
    command: config?.Cmd ?? [],
  }
}

/** The manifest itself, or this platform's of an index. */
async function manifestOf(
  client: ContainerdClient,
  digest: Digest,
  signal: AbortSignal,
  depth = 0,
): Promise<{ config: Descriptor }> {
  const document = await readDocument<{ config?: Descriptor; manifests?: Descriptor[] }>(
    client,
    digest,
    signal,
  )
  if (document.config) return { config: document.config }
  const architecture = ARCHITECTURES[process.arch] ?? process.arch
  for (const { digest: candidate, platform } of depth > 2 ? [] : (document.manifests ?? [])) {
    if (platform && (platform.os !== 'linux' || platform.architecture !== architecture)) continue
    try {
      return await manifestOf(client, parseDigest(candidate), signal, depth + 1)
    } catch (error) {
      // A variant of the architecture that was not pulled: the one that was is there.
      if ((error as ShoalError).code !== 'NOT_FOUND') throw error
    }
  }
  throw new ShoalError('NOT_FOUND', `${digest} has no image for linux/${architecture} here`)
}

async function readDocument<T>(client: ContainerdClient, digest: string, signal: AbortSignal): Promise<T> {
  const parts: Uint8Array[] = []
  let size = 0
  for await (const { data } of client.content.read({ digest }, { signal })) {
    size += data.length
    if (size > DOCUMENT_BYTES) throw new ShoalError('PROTOCOL', `${digest} is too large for a manifest`)
    parts.push(data)
  }
  try {
    return JSON.parse(Buffer.concat(parts).toString()) as T
  } catch (cause) {
    throw new ShoalError('PROTOCOL', `${digest} is no manifest`, { cause })
  }
}

/** The chain ID of layers, as the OCI image spec has it. */
export function chainOf(diffIds: readonly string[]): string {
  return diffIds.reduce(
    (chain, diffId) =>
      chain === '' ? diffId : `sha256:${createHash('sha256').update(`${chain} ${diffId}`).digest('hex')}`,
    '',
  )
}
