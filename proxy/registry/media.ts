const OCI = 'application/vnd.oci.image'
const DOCKER = 'application/vnd.docker.distribution.manifest'

export const OCI_INDEX = `${OCI}.index.v1+json`
const INDEX_TYPES = [OCI_INDEX, `${DOCKER}.list.v2+json`]
const MANIFEST_TYPES = [
  `${OCI}.manifest.v1+json`,
  `${DOCKER}.v2+json`,
  'application/vnd.oci.artifact.manifest.v1+json',
  `${DOCKER}.v1+prettyjws`,
  `${DOCKER}.v1+json`,
]

/** What a client is taken to accept that does not say it: everything there is. */
export const ACCEPT_ALL = [...INDEX_TYPES, ...MANIFEST_TYPES].join(', ')

export function isIndexType(mediaType: string): boolean {
  return INDEX_TYPES.includes(mediaType)
}

/** Whether a descriptor of this type is fetched under `/manifests/`; everything else is a blob. */
export function isManifestType(mediaType: string): boolean {
  return MANIFEST_TYPES.includes(mediaType) || isIndexType(mediaType)
}

/** An Accept header reduced to what distinguishes answers: the types in a fixed order, without parameters. */
export function normalizeAccept(accept: string): string {
  const types = accept.split(',').map((part) => part.split(';')[0]?.trim().toLowerCase() ?? '')
  return [...new Set(types.filter((type) => type !== ''))].sort().join(',')
}

/** Whether the Accept header takes an index: only then does upstream answer with what the tag really names. */
export function acceptsIndex(accept: string): boolean {
  const types = normalizeAccept(accept).split(',')
  return types.some((type) => type === '*/*' || type === 'application/*' || isIndexType(type))
}

/** A media type fit for a header, without parameters that could hide anything; undefined for nonsense. */
export function cleanMediaType(text: string | undefined): string | undefined {
  return text !== undefined && /^[\w!#$&^.+-]{1,127}\/[\w!#$&^.+-]{1,127}(?:\s*;[ -~]{0,100})?$/.test(text)
    ? text
    : undefined
}
