import { type Digest, digestOf } from '../../base/index.ts'
import type { Recreation } from '../runtime/types.ts'
import type { Inside } from './document.ts'
import type { HostNeeds } from './types.ts'
import { type Described, literal, type Virtual } from './virtual.ts'
import { virtualGzip } from './virtual-gzip.ts'
import { virtualTar } from './virtual-tar.ts'

export const CRIU_DIR = 'criu/'
export const RW_FILE = 'rw.tar'

const OCI = 'application/vnd.oci.image'
const CHECKPOINT = 'application/vnd.containerd.container'
const TYPES = {
  index: `${OCI}.index.v1+json`,
  artifact: 'application/vnd.shoal.checkpoint.v1',
  criu: `${CHECKPOINT}.criu.checkpoint.criu.tar`,
  rw: `${OCI}.layer.v1.tar+gzip`,
  spec: `${CHECKPOINT}.checkpoint.config.v1+proto`,
  runtime: `${CHECKPOINT}.checkpoint.runtime.options+proto`,
}
/** Node.js's names of architectures are not Go's. */
const GO_ARCH: Record<string, string> = { x64: 'amd64', ia32: '386' }

/** Everything that the OCI index names and that is made on the fly, without digests: those take reading the state. */
export function virtualParts(
  inside: Pick<Inside, 'recreation' | 'criu' | 'rw'>,
): { mediaType: string; blob: Virtual }[] {
  const { recreation, criu, rw } = inside
  const criuFiles = criu.map(({ path, size }) => ({ name: path.slice(CRIU_DIR.length), path, size }))
  return [
    { mediaType: TYPES.runtime, blob: literal(runtimeOptions(recreation)) },
    { mediaType: TYPES.rw, blob: virtualGzip({ path: RW_FILE, ...rw }) },
    { mediaType: TYPES.criu, blob: virtualTar(criuFiles) },
    {
      mediaType: TYPES.spec,
      blob: literal(
        any(
          'types.containerd.io/opencontainers/runtime-spec/1/Spec',
          Buffer.from(JSON.stringify(recreation.spec)),
        ),
      ),
    },
  ]
}

/** The base image's manifest or index. */
export interface BaseDescriptor {
  mediaType: string
  digest: Digest
  size: number
}

/**
 * The OCI index of a checkpoint, in the form that containerd writes and restores from: its entries are plain blobs. The base image is its
 * subject, and an entry, as there.
 */
export function artifactIndex(options: {
  parts: Described[]
  recreation: Recreation
  base: BaseDescriptor | undefined
  needs: HostNeeds
  name: string
  node: string
  createdAt: number
}): string {
  const { parts, recreation, base, needs, name, node, createdAt } = options
  const platform = { architecture: GO_ARCH[needs.arch] ?? needs.arch, os: 'linux' }
  const image = recreation.image?.reference
  const entries = parts.map(({ mediaType, digest, blob }) => ({
    mediaType,
    digest,
    size: blob.size,
    platform,
  }))
  return JSON.stringify({
    schemaVersion: 2,
    mediaType: TYPES.index,
    artifactType: TYPES.artifact,
    manifests: base ? [...entries, base] : entries,
    ...(base ? { subject: base } : {}),
    annotations: {
      'org.opencontainers.image.created': new Date(createdAt).toISOString(),
      ...(image === undefined ? {} : { 'org.opencontainers.image.ref.name': image }),
      'io.containerd.checkpoint.runtime': text(recreation.own.runtime) ?? 'io.containerd.runc.v2',
      'io.containerd.checkpoint.snapshotter': text(recreation.own.snapshotter) ?? 'overlayfs',
      'io.kubernetes.cri-o.annotations.checkpoint.name': recreation.name,
      'io.podman.annotations.checkpoint.name': recreation.name,
      'io.podman.annotations.checkpoint.runtime.name': needs.oci.name,
      'io.podman.annotations.checkpoint.runtime.version': needs.oci.version,
      'io.podman.annotations.checkpoint.criu.version': needs.criu,
      'io.podman.annotations.checkpoint.host.arch': platform.architecture,
      'io.podman.annotations.checkpoint.host.kernel': needs.kernel,
      'io.podman.annotations.checkpoint.cgroups.version': needs.cgroups === 'v2' ? 'v2' : 'v1',
      ...(image === undefined ? {} : { 'io.podman.annotations.checkpoint.rootfsImage.name': image }),
      ...(base ? { 'io.podman.annotations.checkpoint.rootfsImage.id': base.digest } : {}),
      'org.criu.checkpoint.engine.name': 'shoal',
      'org.criu.checkpoint.container.name': recreation.name,
      'org.criu.checkpoint.criu.version': needs.criu,
      'dev.shoal.checkpoint.name': name,
      'dev.shoal.checkpoint.node': node,
    },
  })
}

export const ARTIFACT_TYPE = TYPES.artifact
export const INDEX_TYPE = TYPES.index

export function indexDigest(index: string): Digest {
  return digestOf(Buffer.from(index))
}

/** containerd's runtime options: those of runc as they come by default. */
function runtimeOptions({ own }: Recreation): Uint8Array {
  const { typeUrl, value } = (own.options ?? {}) as { typeUrl?: unknown; value?: unknown }
  const bytes = typeof value === 'string' ? Buffer.from(value, 'base64') : Buffer.alloc(0)
  return any(text(typeUrl) ?? 'containerd.runc.v1.Options', bytes)
}

/** A google.protobuf.Any: field 1 its type, field 2 the value. */
function any(typeUrl: string, value: Uint8Array): Buffer {
  const field = (tag: number, bytes: Uint8Array): Uint8Array[] =>
    bytes.length === 0 ? [] : [Buffer.from([tag, ...varint(bytes.length)]), bytes]
  return Buffer.concat([...field(0x0a, Buffer.from(typeUrl)), ...field(0x12, value)])
}

function varint(value: number): number[] {
  const bytes: number[] = []
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return [...bytes, rest]
    bytes.push((rest % 128) | 0x80)
  }
}

function text(value: unknown): string | undefined {
  return typeof value === 'string' && value !== '' ? value : undefined
}
