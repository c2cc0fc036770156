import { ShoalError } from '../../../base/index.ts'
import { readable, type TarEntry, type TarHead } from './tar.ts'

export const WHITEOUT = '.wh.'
export const OPAQUE = '.wh..wh..opq'

export interface LayerLimits {
  /** Bytes of all files together. */
  maxBytes: number
  /** What to say when they are more. */
  tooLarge: (bytes: number) => ShoalError
}

/** What an OCI layer's entry stands for, its names made plain: no `./`, no slash at the end; the root is ''. */
export interface LayerEntry extends TarEntry {
  whiteout: 'no' | 'removed' | 'opaque'
  /** Name without its `.wh.`; for `opaque` that of its directory. */
  target: string
}

const MAX_ENTRIES = 4_000_000
/** Names of symbolic links are remembered, since nothing may be written through them. */
const MAX_LINK_NAMES = 32 * 1024 * 1024
const MAX_BYTES = 2 ** 40

export const DEFAULT_LIMITS: LayerLimits = {
  maxBytes: MAX_BYTES,
  tooLarge: (bytes) => refuse(`its files are ${bytes} bytes or more`),
}

/**
 * Lets through, entry by entry, only what stays below the directory that it will be written to, whatever that holds
 * after the entries before. Absolute symbolic links are as common in images as they are harmless: they count from the
 * container's root. @throws DENIED
 */
export async function* guardLayer(
  entries: AsyncIterable<TarEntry>,
  limits: LayerLimits,
): AsyncGenerator<LayerEntry> {
  const links = new Set<string>()
  let linkBytes = 0
  let count = 0
  let bytes = 0
  for await (const entry of entries) {
    if (++count > MAX_ENTRIES) throw refuse(`it has more than ${MAX_ENTRIES} entries`)
    const name = plainName(entry.name, entry)
    bytes += entry.size
    if (bytes > limits.maxBytes) throw limits.tooLarge(bytes)
    if (isThrough(name, links)) throw refuse(`${show(entry)} leads through a symbolic link`)
    if (name === '' && entry.type !== 'dir') throw refuse('its root is no directory')
    let link = entry.link
    switch (entry.type) {
      case 'char':
      case 'block':
        throw refuse(`${show(entry)} is a device`)
      case 'link':
        link = plainName(entry.link, entry)
        if (link === '' || link === name) throw refuse(`${show(entry)} is a link to itself or to the root`)
        if (isThrough(link, links)) throw refuse(`${show(entry)} is a link through a symbolic link`)
        break
      case 'symlink':
        if (climbsOut(name, link)) throw refuse(`${show(entry)} links out, to ${readable(link)}`)
        links.add(name)
        linkBytes += name.length
        if (linkBytes > MAX_LINK_NAMES) throw refuse('it has too many symbolic links')
        break
    }
    yield { ...entry, name, link, ...whiteoutOf(name, entry) }
  }
}

/** True where a relative symbolic link of that name, followed from its place, would leave the root. */
export function climbsOut(name: string, link: string): boolean {
  if (link.startsWith('/')) return link.includes('\0')
  let depth = name.split('/').length - 1
  for (const part of link.split('/')) {
    if (part === '..') depth--
    else if (part !== '' && part !== '.') depth++
    if (depth < 0) return true
  }
  return link === '' || link.includes('\0')
}

function whiteoutOf(name: string, entry: TarHead): Pick<LayerEntry, 'whiteout' | 'target'> {
  const slash = name.lastIndexOf('/')
  const last = name.slice(slash + 1)
  if (!last.startsWith(WHITEOUT)) {
    if (name.split('/').some((part) => part.startsWith(WHITEOUT)))
      throw refuse(`${show(entry)} is below a whiteout`)
    return { whiteout: 'no', target: name }
  }
  if (entry.type !== 'file' || entry.size !== 0) throw refuse(`${show(entry)} is a whiteout with contents`)
  const dir = name.slice(0, Math.max(0, slash))
  if (last === OPAQUE) return { whiteout: 'opaque', target: dir }
  const hidden = last.slice(WHITEOUT.length)
  if (hidden === '' || hidden === '.' || hidden === '..' || hidden.startsWith(WHITEOUT))
    throw refuse(`${show(entry)} is no whiteout`)
  return { whiteout: 'removed', target: dir === '' ? hidden : `${dir}/${hidden}` }
}

function plainName(name: string, entry: TarHead): string {
  if (name.startsWith('/')) throw refuse(`${show(entry)} has an absolute name, ${readable(name)}`)
  if (name.length > 4096 || name.includes('\0'))
    throw refuse('a name of more than 4096 bytes, or with a zero')
  const parts = name.split('/').filter((part) => part !== '' && part !== '.')
  if (parts.includes('..')) throw refuse(`${show(entry)} has .. in ${readable(name)}`)
  if (parts.some((part) => part.length > 255)) throw refuse('a name with a part of more than 255 bytes')
  return parts.join('/')
}

/** True where the name, or a directory above it, is one of the links. */
function isThrough(name: string, links: ReadonlySet<string>): boolean {
  if (links.size === 0) return false
  for (let end = name.length; end > 0; end = name.lastIndexOf('/', end - 1))
    if (links.has(name.slice(0, end)) && end < name.length) return true
  return false
}

function show(entry: TarHead): string {
  return JSON.stringify(readable(entry.name).slice(0, 200))
}

function refuse(why: string): ShoalError {
  return new ShoalError('DENIED', `the layer is refused: ${why}`)
}
