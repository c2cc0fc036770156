import { type Digest, isDigest } from '../../base/index.ts'
import { type LocalManifest, type Part, readAnnotations } from '../local/index.ts'
import { refusal } from '../registry/failure.ts'
import { parseJson } from '../registry/json.ts'
import { cleanMediaType, isIndexType, isManifestType } from '../registry/media.ts'

/** Descriptors that a manifest may have: an index of every platform there is needs some dozens, an image some hundreds. */
const MAX_PARTS = 1000
/** Annotations of a referrer are shared with every node of the cluster, as its list shows them. */
const MAX_ANNOTATIONS = 16 * 1024

/** A manifest as it was pushed, strictly read. */
export interface Document extends Omit<LocalManifest, 'size'> {
  /** Sizes as the manifest gives them. */
  parts: Part[]
}

type Json = Record<string, unknown>

/**
 * Reads what is pushed as a manifest. @throws MANIFEST_INVALID (400): no JSON, of no type that is known, of another type than
 * `contentType` says, or with a descriptor that cannot be understood
 */
export function readDocument(bytes: Buffer, contentType: string | undefined): Document {
  const json = parse(bytes)
  const mediaType = typeOf(json, contentType)
  if (json.schemaVersion !== 2 && !mediaType.includes('artifact')) throw invalid('schemaVersion is not 2')
  const index = isIndexType(mediaType)
  const listed = index ? many(json.manifests, 'manifests') : []
  const blobs = index ? [] : [...config(json, mediaType), ...layers(json)]
  if (listed.length + blobs.length > MAX_PARTS) throw invalid(`it names more than ${MAX_PARTS} parts`)
  const subject = json.subject === undefined ? undefined : descriptor(json.subject, 'subject').digest
  const annotations = annotationsOf(json, subject !== undefined)
  const artifactType = artifactTypeOf(json)
  const isManifest = ({ mediaType: type }: Descriptor): boolean => isManifestType(type)
  const parts = [...blobs.filter(({ foreign }) => !foreign), ...listed.filter((one) => !isManifest(one))]
  return {
    mediaType,
    ...(artifactType === undefined ? {} : { artifactType }),
    ...(subject === undefined ? {} : { subject }),
    ...(annotations === undefined ? {} : { annotations }),
    manifests: [...new Set(listed.filter(isManifest).map(({ digest }) => digest))],
    parts: [...new Map(parts.map(({ digest, size }) => [digest, { digest, size }])).values()],
  }
}

interface Descriptor extends Part {
  mediaType: string
  /** Its publisher alone hands it out: it is not pushed. */
  foreign: boolean
}

function parse(bytes: Buffer): Json {
  try {
    const value: unknown = parseJson(bytes, (text) => new TextDecoder('utf-8', { fatal: true }).decode(text))
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Json
  } catch (error) {
    if (error instanceof RangeError) throw invalid(`it has ${error.message}`)
  }
  throw invalid('it is no JSON object')
}

function typeOf(json: Json, contentType: string | undefined): string {
  const said = contentType?.split(';')[0]?.trim().toLowerCase()
  const own = json.mediaType
  if (own !== undefined && typeof own !== 'string') throw invalid('mediaType is no text')
  if (said !== undefined && own !== undefined && said !== own) {
    throw invalid(`its mediaType is another than the Content-Type ${said.slice(0, 80)}`)
  }
  const type = said ?? own
  if (type === undefined) throw invalid('neither mediaType nor Content-Type says what it is')
  if (
    !isManifestType(type) ||
    type.includes('.v1+prettyjws') ||
    type.endsWith('distribution.manifest.v1+json')
  ) {
    throw invalid(`manifests of type ${type.slice(0, 80)} are not kept here`)
  }
  if (
    isIndexType(type) ? json.layers !== undefined || json.config !== undefined : json.manifests !== undefined
  ) {
    throw invalid('it is a manifest and an index at once')
  }
  return type
}

function config(json: Json, mediaType: string): Descriptor[] {
  if (json.config === undefined && mediaType.includes('artifact')) return []
  return [descriptor(json.config, 'config')]
}

function layers(json: Json): Descriptor[] {
  return many(json.layers ?? json.blobs ?? [], 'layers')
}

function many(value: unknown, what: string): Descriptor[] {
  if (!Array.isArray(value)) throw invalid(`${what} is no list`)
  return value.map((entry) => descriptor(entry, what))
}

function descriptor(value: unknown, what: string): Descriptor {
  if (typeof value !== 'object' || value === null) throw invalid(`${what}: no descriptor`)
  const { digest, size, mediaType, urls } = value as Json
  if (typeof digest !== 'string' || !isDigest(digest)) throw invalid(`${what}: no digest`)
  if (!Number.isSafeInteger(size) || (size as number) < 0) throw invalid(`${what}: no size`)
  if (typeof mediaType !== 'string' || cleanMediaType(mediaType) === undefined) {
    throw invalid(`${what}: no mediaType`)
  }
  const foreign = Array.isArray(urls) && urls.length > 0
  return { digest: digest as Digest, size: size as number, mediaType, foreign }
}

/** Those of a referrer; of anything else they only have to be right. */
function annotationsOf(json: Json, referrer: boolean): Record<string, string> | undefined {
  if (json.annotations === undefined || json.annotations === null) return undefined
  const annotations = readAnnotations(json.annotations)
  if (!annotations) throw invalid('annotations are no map of texts')
  if (!referrer) return undefined
  if (Buffer.byteLength(JSON.stringify(annotations)) > MAX_ANNOTATIONS) {
    throw invalid(`annotations of more than ${MAX_ANNOTATIONS} bytes`)
  }
  return annotations
}

function artifactTypeOf(json: Json): string | undefined {
  const type = json.artifactType || (json.config as Json | undefined)?.mediaType
  return typeof type === 'string' ? cleanMediaType(type) : undefined
}

function invalid(why: string): Error {
  return refusal(400, 'MANIFEST_INVALID', `the manifest is refused: ${why}`)
}
