import { ShoalError } from '../../base/index.ts'
import { isBelow, readToml, samePath, stringValue, type TomlLine } from './toml.ts'
import type { FileEdit } from './types.ts'

export const CONFIG = '/etc/containerd/config.toml'
export const CERTS = '/etc/containerd/certs.d'
/** Ends each line that Shoal adds, so that it is found again in a file that was edited since. */
const MARK = '# shoal mirror'
const NOTE = '# The registry itself stays the last resort: containerd tries it when Shoal cannot help.'
const REPLACED = `${MARK}, was `

/** Where the CRI plugin's registry settings are, by the version of the configuration's format. */
const SECTIONS: Record<number, { path: string[]; header: string }> = {
  1: { path: ['plugins', 'cri', 'registry'], header: '[plugins.cri.registry]' },
  2: {
    path: ['plugins', 'io.containerd.grpc.v1.cri', 'registry'],
    header: '[plugins."io.containerd.grpc.v1.cri".registry]',
  },
  3: {
    path: ['plugins', 'io.containerd.cri.v1.images', 'registry'],
    header: "[plugins.'io.containerd.cri.v1.images'.registry]",
  },
}

function sectionOf(lines: TomlLine[]): { path: string[]; header: string } {
  const line = lines.find(({ kind, path }) => kind === 'key' && samePath(path, ['version']))
  const version = line ? Number.parseInt(line.value, 10) : 1
  const section = SECTIONS[version]
  if (!section)
    throw new ShoalError('CONFIG', `${CONFIG} is of version ${line?.value}, which Shoal does not know`)
  return section
}

/** The line that sets `config_path` in the section, if there is one. */
function findConfigPath(lines: TomlLine[], section: string[]): TomlLine | undefined {
  return lines.find(({ kind, path }) => kind === 'key' && samePath(path, [...section, 'config_path']))
}

/**
 * The directory with hosts.toml files that a configuration names already: the first of the list, as containerd looks
 * there first. Undefined where none is set.
 */
export function certsDirectory(config: string | undefined): string | undefined {
  if (config === undefined) return undefined
  const lines = readToml(config, CONFIG)
  const line = findConfigPath(lines, sectionOf(lines).path)
  return (line && stringValue(line.value)?.split(':')[0]) || undefined
}

/** containerd refuses to start its CRI plugin with both ways of saying the same. */
function refuseOldMirrors(lines: TomlLine[], section: string[]): void {
  const i = lines.findIndex(
    ({ kind, path }) =>
      kind !== 'more' &&
      kind !== 'other' &&
      // `containerd config default` writes all of these tables, empty: that is no conflict.
      ((isBelow(path, [...section, 'mirrors']) && path.length > section.length + 1) ||
        (isBelow(path, [...section, 'configs']) && path.length > section.length + 2 && path.includes('tls'))),
  )
  if (i < 0) return
  throw new ShoalError(
    'CONFIG',
    `${CONFIG}:${i + 1}: has registry mirrors of the old form, which containerd does not take beside config_path; move them to ${CERTS} first`,
  )
}

/** Sets `config_path` where it is missing or empty, by one line or a table of two. */
export function configEdit(version: number): FileEdit {
  return {
    path: CONFIG,
    add: (before) => {
      const text = before ?? ''
      const lines = readToml(text, CONFIG)
      // An empty file counts as one of the running containerd's own version.
      const fresh = !lines.some(({ kind }) => kind === 'key' || kind === 'table')
      const section = fresh ? SECTIONS[version] : sectionOf(lines)
      if (!section) throw new ShoalError('CONFIG', `containerd's version ${version} is not known`)
      const setting = `config_path = "${CERTS}"`
      const present = findConfigPath(lines, section.path)
      if (present && stringValue(present.value) !== '') return text
      const inline = lines.find(
        ({ kind, path, value }) => kind === 'key' && isBelow(section.path, path) && value.startsWith('{'),
      )
      if (inline) {
        throw new ShoalError(
          'CONFIG',
          `${CONFIG} has its registry settings in an inline table; set ${setting} there by hand`,
        )
      }
      refuseOldMirrors(lines, section.path)

      const eol = text.includes('\r\n') ? '\r\n' : '\n'
      const cr = eol === '\r\n' ? '\r' : ''
      const out = lines.map((line) => line.text)
      const indentOf = (line: string | undefined): string => /^\s*/.exec(line ?? '')?.[0] ?? ''
      if (present) {
        const i = lines.indexOf(present)
        out[i] = `${indentOf(present.text)}${setting} ${REPLACED}${present.text.trim()}${cr}`
        return out.join('\n')
      }
      const header = lines.findIndex(({ kind, path }) => kind === 'table' && samePath(path, section.path))
      if (header >= 0) {
        out.splice(header + 1, 0, `${indentOf(out[header])}  ${setting} ${MARK}${cr}`)
        return out.join('\n')
      }
      // Dotted keys (`registry.x = …` in the plugin's table) have made the table already: it must not get a header.
      const dotted = lines.findIndex(({ kind, path }) => kind === 'key' && isBelow(path, section.path))
      if (dotted >= 0) {
        const indent = indentOf(out[dotted])
        const own = /^\s*(.*?)\s*=/.exec(out[dotted] ?? '')?.[1] ?? ''
        const prefix = own.slice(0, own.lastIndexOf('.') + 1)
        const depth = lines[dotted]?.path.length ?? 0
        if (depth === section.path.length + 1) {
          out.splice(dotted, 0, `${indent}${prefix}${setting} ${MARK}${cr}`)
          return out.join('\n')
        }
        throw new ShoalError(
          'CONFIG',
          `${CONFIG} has its registry settings in dotted keys; set ${setting} by hand`,
        )
      }
      const head = fresh ? `version = ${version} ${MARK}${eol}` : ''
      const gap = text === '' || text.endsWith('\n') ? '' : eol
      return `${text}${gap}${head}${section.header} ${MARK}${eol}  ${setting} ${MARK}${eol}`
    },
    remove: (now) => {
      if (!now.includes(MARK)) return now
      const lines = readToml(now, CONFIG)
      const ours = new Set(lines.filter(({ text }) => text.trimEnd().endsWith(MARK)))
      const stays = (line: TomlLine): boolean => {
        if (!ours.has(line)) return true
        if (line.kind === 'table') {
          // Somebody put more into our table: then it stays.
          return lines.some(
            (other) => other.kind === 'key' && !ours.has(other) && isBelow(other.path, line.path),
          )
        }
        // The version counts for all that was added since.
        return samePath(line.path, ['version']) && lines.some(({ kind }) => kind === 'key' && !ours.has(line))
      }
      const left = lines
        .filter(stays)
        .map(({ text }) => {
          const at = text.indexOf(REPLACED)
          return at < 0 ? text : `${/^\s*/.exec(text)?.[0] ?? ''}${text.slice(at + REPLACED.length)}`
        })
        .join('\n')
      return left !== now && left.trim() === '' ? undefined : left
    },
  }
}

/** Puts Shoal before what a hosts.toml names; the one in `_default` is for all registries without one of their own. */
export function hostsEdit(path: string, url: string): FileEdit {
  const block = (eol: string): string =>
    [`[host."${url}"] ${MARK}`, `  capabilities = ["pull", "resolve"] ${MARK}`, ''].join(eol)
  return {
    path,
    add: (before) => {
      if (before === undefined) {
        // Without a `server` line containerd goes on to the registry itself when the mirror fails.
        return `${NOTE}\n${block('\n')}`
      }
      const lines = readToml(before, path)
      const table = (line: TomlLine): boolean => line.kind === 'table' && isBelow(line.path, ['host', url])
      if (lines.some(table)) return before
      const inline = lines.some(({ kind, path: at }) => kind === 'key' && samePath(at, ['host']))
      if (inline)
        throw new ShoalError('CONFIG', `${path} has its hosts in an inline table; add ${url} by hand`)
      const eol = before.includes('\r\n') ? '\r\n' : '\n'
      // Hosts are tried in the file's order: Shoal's must be the first, with the comments of the next one below it.
      let at = lines.findIndex(({ kind }) => kind === 'table' || kind === 'array')
      if (at < 0) {
        const gap = before === '' || before.endsWith('\n') ? '' : eol
        return `${before}${gap}${block(eol)}`
      }
      while (at > 0 && lines[at - 1]?.text.trim().startsWith('#')) at--
      const out = lines.map((line) => line.text)
      out.splice(at, 0, ...block(eol).split('\n').slice(0, -1))
      return out.join('\n')
    },
    remove: (now) => {
      if (!now.includes(MARK)) return now
      // The table is Shoal's as a whole, with what somebody may have put into it: left over, it would fall to another.
      const left: string[] = []
      let mine = false
      for (const line of readToml(now, path)) {
        if (line.kind === 'table' || line.kind === 'array') {
          const header = line.text.trimEnd().endsWith(MARK)
          mine = header || (mine && isBelow(line.path, ['host', url]))
        }
        if (line.text.trim() === NOTE) continue
        if (!mine || line.kind === 'other') left.push(line.text)
      }
      const text = left.join('\n')
      return text !== now && text.trim() === '' ? undefined : text
    },
  }
}
