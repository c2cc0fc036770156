import { ShoalError } from '../../base/index.ts'
import { readToml, stringValue, type TomlLine } from './toml.ts'
import type { FileEdit } from './types.ts'

export const CONFIG = '/etc/containers/registries.conf.d/050-shoal.conf'
export const MAIN = '/etc/containers/registries.conf'
const MARK = '# shoal mirror'
const FIRST_LINE = `# \`shoal mirror uninstall podman\` takes this away again ${MARK}`

/** A `[[registry]]` of somebody's configuration, as text: a later one of the same prefix replaces it as a whole. */
interface Entry {
  prefix: string
  settings: string[]
  mirrors: string[]
}

function isPath(line: TomlLine, ...path: string[]): boolean {
  return line.path.join('.') === path.join('.')
}

/** The entries of one file. @throws ShoalError CONFIG for the old form, which cannot be mixed with the new one */
export function readEntries(text: string, file: string): Entry[] {
  const entries: Entry[] = []
  let into: string[] | undefined
  for (const line of readToml(text, file)) {
    if (line.kind === 'table' && line.path[0] === 'registries') {
      throw new ShoalError(
        'CONFIG',
        `${file} is of the old form ([registries.…]); podman takes no other beside it`,
      )
    }
    if (line.kind === 'array' && isPath(line, 'registry')) {
      const entry: Entry = { prefix: '', settings: [], mirrors: [] }
      entries.push(entry)
      into = entry.settings
    } else if (line.kind === 'array' && isPath(line, 'registry', 'mirror')) {
      into = entries.at(-1)?.mirrors
      into?.push(line.text)
    } else if (line.kind === 'table' || line.kind === 'array') into = undefined
    else if (into && line.text.trim() !== '') {
      into.push(line.text)
      const entry = entries.at(-1)
      const name = line.path.at(-1)
      if (!entry || into !== entry.settings || line.kind !== 'key') continue
      if (name === 'prefix' || (name === 'location' && entry.prefix === '')) {
        entry.prefix = stringValue(line.value) ?? ''
      }
    }
  }
  return entries
}

/** Lines in groups that begin with `[[registry]]`; the first group is what stands before any. */
function groups(text: string): TomlLine[][] {
  const all: TomlLine[][] = [[]]
  for (const line of readToml(text, CONFIG)) {
    if (line.kind === 'array' && isPath(line, 'registry')) all.push([])
    all.at(-1)?.push(line)
  }
  return all
}

const isOurs = ({ text }: TomlLine): boolean => text.trimEnd().endsWith(MARK)
const isEmpty = ({ text }: TomlLine): boolean => text.trim() === ''

/** A group without our part: all of it, or, where somebody wrote into our entry, our mirror only. */
function bare(group: TomlLine[]): TomlLine[] {
  if (!group.some(isOurs)) return group
  if (group.every((line) => isOurs(line) || isEmpty(line))) return []
  let mirror = false
  return group.filter((line) => {
    if (line.kind === 'table' || line.kind === 'array')
      mirror = isPath(line, 'registry', 'mirror') && isOurs(line)
    const first = line.kind === 'other' && isOurs(line)
    return !mirror && !first
  })
}

/** A drop-in that puts Shoal before the hosts. `known` are the entries of the other files: what they say is kept. */
export function dropInEdit(hosts: string[], registry: string, known: Entry[]): FileEdit {
  return {
    path: CONFIG,
    add: (before) => {
      const lines: string[] = [FIRST_LINE]
      const mark = (text: string): void => void lines.push(`${text.trim()} ${MARK}`)
      for (const host of hosts) {
        const entry = known.findLast(({ prefix }) => prefix === host)
        lines.push('')
        mark('[[registry]]')
        for (const line of entry?.settings ?? [`prefix = "${host}"`, `location = "${host}"`]) mark(line)
        mark('[[registry.mirror]]')
        mark(`location = "${registry}/${host}"`)
        mark('insecure = true')
        for (const line of entry?.mirrors ?? []) mark(line)
      }
      return `${lines.join('\n')}\n${before === undefined ? '' : `\n${before}`}`
    },
    remove: (now) => {
      if (!now.includes(MARK)) return now
      const left = groups(now).flatMap(bare)
      const text = left.map((line) => line.text).join('\n')
      return text !== now && left.every(isEmpty) ? undefined : text
    },
  }
}
