import { ShoalError } from '../../base/index.ts'

/** A member of the outermost object, as offsets into the text. */
export interface Member {
  key: string
  /** Of the key's opening quote. */
  start: number
  valueStart: number
  valueEnd: number
}

function skipSpace(text: string, at: number): number {
  let i = at
  while (/\s/.test(text[i] ?? '')) i++
  return i
}

/** The offset behind the value that begins at `at`, in text that is known to be JSON. */
function endOfValue(text: string, at: number): number {
  let depth = 0
  let i = at
  for (; i < text.length; i++) {
    const char = text[i]
    if (char === '"') {
      i++
      while (text[i] !== '"') i += text[i] === '\\' ? 2 : 1
      if (depth === 0) return i + 1
    } else if (char === '{' || char === '[') depth++
    else if (char === '}' || char === ']') {
      if (depth === 0) return i
      depth--
      if (depth === 0) return i + 1
    } else if (depth === 0 && (char === ',' || /\s/.test(char ?? ''))) return i
  }
  return i
}

/**
 * The members of the outermost object, with where they stand, so that one can be changed without touching the rest.
 * @throws ShoalError CONFIG when the text is no JSON object
 */
export function readMembers(text: string, file: string): { members: Member[]; open: number; close: number } {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw new ShoalError('CONFIG', `${file} is not JSON: ${(cause as Error).message}`, { cause })
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new ShoalError('CONFIG', `${file} must be a JSON object`)
  }
  const members: Member[] = []
  const open = text.indexOf('{')
  let i = skipSpace(text, open + 1)
  while (text[i] === '"') {
    const start = i
    const keyEnd = endOfValue(text, i)
    const key = JSON.parse(text.slice(start, keyEnd)) as string
    const valueStart = skipSpace(text, skipSpace(text, keyEnd) + 1)
    const valueEnd = endOfValue(text, valueStart)
    members.push({ key, start, valueStart, valueEnd })
    i = skipSpace(text, valueEnd)
    if (text[i] === ',') i = skipSpace(text, i + 1)
  }
  return { members, open, close: i }
}

/** What stands before the first member, as indentation; two spaces where nothing shows a habit. */
function habit(
  text: string,
  { members, open }: { members: Member[]; open: number },
): { eol: string; indent: string } {
  const eol = text.includes('\r\n') ? '\r\n' : '\n'
  const first = members[0]
  const before = first ? text.slice(open + 1, first.start) : ''
  if (first && !before.includes('\n')) {
    // All on one line: whoever puts a space behind colons puts one behind commas.
    return { eol: '', indent: /:\s/.test(text.slice(first.start, first.valueStart)) ? ' ' : '' }
  }
  return { eol, indent: /[^\n]*$/.exec(before)?.[0] || '  ' }
}

/** Puts `item` first into the array of strings `key`, which is made at the end where it is not there. */
export function addToArray(text: string, key: string, item: string, file: string): string {
  const read = readMembers(text, file)
  const member = read.members.find((one) => one.key === key)
  const quoted = JSON.stringify(item)
  if (!member) {
    const { eol, indent } = habit(text, read)
    const last = read.members.at(-1)
    const own = `${indent}${JSON.stringify(key)}: [${quoted}]`
    if (!last) return `${text.slice(0, read.open + 1)}${eol}${own}${eol}${text.slice(read.close)}`
    return `${text.slice(0, last.valueEnd)},${eol}${own}${text.slice(last.valueEnd)}`
  }
  const items: unknown = JSON.parse(text.slice(member.valueStart, member.valueEnd))
  if (!Array.isArray(items)) throw new ShoalError('CONFIG', `${file}: "${key}" must be a list`)
  if (items.includes(item)) return text
  const inside = member.valueStart + 1
  if (items.length === 0) return `${text.slice(0, inside)}${quoted}${text.slice(member.valueEnd - 1)}`
  const space = text.slice(inside, skipSpace(text, inside))
  return `${text.slice(0, inside)}${space}${quoted},${space === '' ? ' ' : space}${text.slice(inside + space.length)}`
}

/** Takes `item` out of the array `key`, and the array as well when nothing else is in it. */
export function removeFromArray(text: string, key: string, item: string, file: string): string {
  const read = readMembers(text, file)
  const at = read.members.findIndex((one) => one.key === key)
  const member = read.members[at]
  if (!member) return text
  const items: unknown = JSON.parse(text.slice(member.valueStart, member.valueEnd))
  if (!Array.isArray(items) || !items.includes(item)) return text
  if (items.length === 1) {
    const previous = read.members[at - 1]
    const next = read.members[at + 1]
    if (previous) return text.slice(0, previous.valueEnd) + text.slice(member.valueEnd)
    if (next) return text.slice(0, member.start) + text.slice(next.start)
    return text.slice(0, read.open + 1) + text.slice(read.close)
  }
  // The spans of the array's own items, found as the members' values are.
  let i = skipSpace(text, member.valueStart + 1)
  for (let n = 0; n < items.length; n++) {
    const end = endOfValue(text, i)
    const comma = skipSpace(text, end)
    const next = text[comma] === ',' ? skipSpace(text, comma + 1) : undefined
    if (items[n] === item) {
      if (next !== undefined) return text.slice(0, i) + text.slice(next)
      return text.slice(0, i).replace(/,\s*$/, '') + text.slice(end)
    }
    i = next ?? end
  }
  return text
}
