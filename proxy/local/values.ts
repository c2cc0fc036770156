import { type Digest, isDigest } from '../../base/index.ts'
import { cleanMediaType } from '../registry/media.ts'
import type { LocalManifest, Part } from './types.ts'

/** What stands in a shared record came from another node: what does not have the right shape is taken as absent. */
export function readDigest(value: unknown): Digest | undefined {
  return typeof value === 'string' && isDigest(value) ? value : undefined
}

export function readLink(value: unknown): number | undefined {
  return readSize((value as { size?: unknown } | undefined | null)?.size)
}

export function readManifestRecord(value: unknown): LocalManifest | undefined {
  if (typeof value !== 'object' || value === null) return undefined
  const fields = value as Record<string, unknown>
  const mediaType = typeof fields.mediaType === 'string' ? cleanMediaType(fields.mediaType) : undefined
  const size = readSize(fields.size)
  if (mediaType === undefined || size === undefined) return undefined
  const subject = readDigest(fields.subject)
  const annotations = readAnnotations(fields.annotations)
  return {
    mediaType,
    size,
    ...(typeof fields.artifactType === 'string' ? { artifactType: fields.artifactType } : {}),
    ...(subject === undefined ? {} : { subject }),
    ...(annotations === undefined ? {} : { annotations }),
    manifests: list(fields.manifests).flatMap((entry) => readDigest(entry) ?? []),
    parts: list(fields.parts).flatMap((entry) => readPart(entry) ?? []),
  }
}

/** An object of strings; undefined for anything else. */
export function readAnnotations(value: unknown): Record<string, string> | undefined {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined
  const entries = Object.entries(value)
  return entries.every(([, text]) => typeof text === 'string') ? Object.fromEntries(entries) : undefined
}

function readPart(value: unknown): Part | undefined {
  const fields = value as { digest?: unknown; size?: unknown } | null
  const digest = readDigest(fields?.digest)
  const size = readSize(fields?.size)
  return digest === undefined || size === undefined ? undefined : { digest, size }
}

function readSize(value: unknown): number | undefined {
  return Number.isSafeInteger(value) && (value as number) >= 0 ? (value as number) : undefined
}

function list(value: unknown): unknown[] {
  return Array.isArray(value) ? value : []
}
