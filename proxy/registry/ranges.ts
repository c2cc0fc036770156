/** What a Range header comes to: the bytes `start … end` (exclusive), everything, or nothing that there is. */
export type RangeChoice = { start: number; end: number } | 'all' | 'unsatisfiable'

/**
 * A Range header for a body of `size` bytes, after RFC 9110 section 14. Only one range of bytes is taken; several, other
 * units and what cannot be read are ignored, as the RFC allows.
 */
export function chooseRange(header: string | undefined, size: number): RangeChoice {
  const match = /^\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*$/i.exec(header ?? '')
  const [, from = '', to = ''] = match ?? []
  if (from === '' && to === '') return 'all'
  if (from === '') {
    const length = Math.min(Number(to), size)
    return length === 0 ? 'unsatisfiable' : { start: size - length, end: size }
  }
  const start = Number(from)
  if (to !== '' && Number(to) < start) return 'all'
  if (start >= size) return 'unsatisfiable'
  return { start, end: to === '' ? size : Math.min(Number(to) + 1, size) }
}

/** Whether an If-None-Match header names the entity (weak comparison, RFC 9110 section 13.1.2). */
export function noneMatch(header: string | undefined, etag: string): boolean {
  if (header === undefined) return false
  return header.trim() === '*' || tagsOf(header).some((tag) => tag.replace(/^W\//, '') === etag)
}

/** Whether Range counts under this If-Range header: only for the very same entity (strong comparison); no date ever is. */
export function ifRange(header: string | undefined, etag: string): boolean {
  return header === undefined || header.trim() === etag
}

function tagsOf(header: string): string[] {
  return header.match(/(?:W\/)?"[^"]*"/g) ?? []
}
