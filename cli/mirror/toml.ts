import { ShoalError } from '../../base/index.ts'

/**
 * Just enough of TOML to find where an edit belongs: line by line, which table a line is in and which key it sets. Text is
 * never re-serialised, so that comments, order and spacing stay as people wrote them.
 */
export interface TomlLine {
  text: string
  /** `table`: `[a.b]`; `array`: `[[a.b]]`; `key`: `a.b = …`; `more`: the rest of a value of several lines; else `other`. */
  kind: 'table' | 'array' | 'key' | 'more' | 'other'
  /** Of a table: its own path. Of a key: the path with its table's. */
  path: string[]
  /** Text of a key's value as it begins on this line, comments included. */
  value: string
}

/** Splits a dotted key with bare, "basic" and 'literal' parts; gives what follows it. Undefined: no key is there. */
function readKey(text: string): { path: string[]; rest: string } | undefined {
  const path: string[] = []
  let rest = text.trimStart()
  for (;;) {
    const part = /^(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*/.exec(rest)
    if (!part) return undefined
    path.push(part[1]?.replaceAll(/\\(["\\])/g, '$1') ?? part[2] ?? part[3] ?? '')
    rest = rest.slice(part[0].length)
    if (!rest.startsWith('.')) return { path, rest }
    rest = rest.slice(1).trimStart()
  }
}

/** What a value that begins on a line leaves open at its end: a multi-line string's quotes, or how many brackets. */
interface Open {
  quotes: '"""' | "'''" | undefined
  depth: number
}

/** Reads on in `text` from the state `open`. */
function scanValue(text: string, open: Open): Open {
  let { quotes, depth } = open
  for (let i = 0; i < text.length; ) {
    if (quotes) {
      if (quotes === '"""' && text[i] === '\\') i += 2
      else if (text.startsWith(quotes, i)) {
        i += 3
        quotes = undefined
      } else i++
      continue
    }
    const char = text[i]
    if (char === '#') break
    if (text.startsWith('"""', i) || text.startsWith("'''", i)) {
      quotes = text.slice(i, i + 3) as Open['quotes']
      i += 3
    } else if (char === '"' || char === "'") {
      i++
      while (i < text.length && text[i] !== char) i += char === '"' && text[i] === '\\' ? 2 : 1
      i++
    } else {
      if (char === '[' || char === '{') depth++
      if (char === ']' || char === '}') depth--
      i++
    }
  }
  return { quotes, depth }
}

/** The lines of a TOML document (without their line ends). @throws ShoalError CONFIG for what it cannot make out */
export function readToml(text: string, file: string): TomlLine[] {
  const lines: TomlLine[] = []
  let table: string[] = []
  let open: Open = { quotes: undefined, depth: 0 }
  for (const [i, raw] of text.split('\n').entries()) {
    const line = raw.replace(/\r$/, '')
    const trimmed = line.trim()
    if (open.quotes || open.depth > 0) {
      open = scanValue(line, open)
      lines.push({ text: raw, kind: 'more', path: [], value: '' })
      continue
    }
    if (trimmed === '' || trimmed.startsWith('#')) {
      lines.push({ text: raw, kind: 'other', path: [], value: '' })
      continue
    }
    const array = trimmed.startsWith('[[')
    const key = readKey(trimmed.replace(/^\[\[?/, ''))
    if (key && trimmed.startsWith('[') && key.rest.startsWith(array ? ']]' : ']')) {
      table = key.path
      lines.push({ text: raw, kind: array ? 'array' : 'table', path: table, value: '' })
    } else if (key?.rest.startsWith('=') && !trimmed.startsWith('[')) {
      const value = key.rest.slice(1).trim()
      open = scanValue(value, { quotes: undefined, depth: 0 })
      lines.push({ text: raw, kind: 'key', path: [...table, ...key.path], value })
    } else {
      throw new ShoalError(
        'CONFIG',
        `${file}:${i + 1}: not TOML that Shoal can edit: ${trimmed.slice(0, 80)}`,
      )
    }
  }
  return lines
}

/** The string that a value's text begins with; undefined when it is none. */
export function stringValue(value: string): string | undefined {
  const match = /^(?:"((?:[^"\\]|\\.)*)"|'([^']*)')/.exec(value)
  return match?.[1]?.replaceAll(/\\(["\\])/g, '$1') ?? match?.[2]
}

export function samePath(a: string[], b: string[]): boolean {
  return a.length === b.length && a.every((part, i) => part === b[i])
}

/** True when `path` is `prefix` or lies below it. */
export function isBelow(path: string[], prefix: string[]): boolean {
  return path.length >= prefix.length && prefix.every((part, i) => part === path[i])
}
