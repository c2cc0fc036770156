import { ShoalError } from '../../base/index.ts'

/**
 * Attribute-based filtering and selection of answers as ETSI MEC 009, 6.18 and 6.19 have them: `filter=(eq,appInstanceId,x);(cont,a/b,y)`,
 * `fields=a,b/c`, `exclude_fields=…`, `exclude_default`, `all_fields`.
 */

const OPERATORS = ['eq', 'neq', 'gt', 'lt', 'gte', 'lte', 'in', 'nin', 'cont', 'ncont'] as const
type Operator = (typeof OPERATORS)[number]
type Test = { operator: Operator; path: string[]; values: string[] }
export type Selection = { filter: Test[]; only: string[][] | undefined; without: string[][] }

const MAX_LENGTH = 2048
const PARAMETERS = ['filter', 'all_fields', 'fields', 'exclude_fields', 'exclude_default']

function bad(detail: string): ShoalError {
  return new ShoalError('USAGE', detail)
}

/** Splits at a separator that stands outside of single quotes, which stay. @throws USAGE */
function split(text: string, separator: string): string[] {
  const parts: string[] = []
  let part = ''
  let quoted = false
  for (const character of text) {
    if (character === "'") quoted = !quoted
    if (character === separator && !quoted) {
      parts.push(part)
      part = ''
    } else part += character
  }
  if (quoted) throw bad('filter: a quote is not closed')
  return [...parts, part]
}

/** A value that may be in quotes, in which a quote is doubled. */
function unquoted(text: string): string {
  const inside = /^'(.*)'$/s.exec(text)?.[1]
  return inside === undefined ? text : inside.replaceAll("''", "'")
}

function parsePath(text: string): string[] {
  if (!/^[A-Za-z_][\w]*(\/[A-Za-z_][\w]*)*$/.test(text))
    throw bad(`not the name of an attribute: ${text.slice(0, 80)}`)
  return text.split('/')
}

function parseTest(text: string): Test {
  if (!text.startsWith('(') || !text.endsWith(')')) throw bad('filter: must be of (operator,attribute,value)')
  const [name, attribute, ...values] = split(text.slice(1, -1), ',')
  const operator = OPERATORS.find((one) => one === name)
  if (!operator) throw bad(`filter: must begin with one of ${OPERATORS.join(', ')}`)
  const many = ['in', 'nin', 'cont', 'ncont'].includes(operator)
  if (attribute === undefined || values.length === 0 || (!many && values.length > 1)) {
    throw bad(`filter: ${operator} needs an attribute and ${many ? 'values' : 'one value'}`)
  }
  return { operator, path: parsePath(attribute), values: values.map(unquoted) }
}

/** @throws USAGE */
export function parseSelection(query: Record<string, string[]>): Selection {
  for (const [name, values] of Object.entries(query)) {
    if (!PARAMETERS.includes(name)) throw bad(`no such parameter: ${name.slice(0, 80)}`)
    if (values.length > 1) throw bad(`${name} must be given once`)
    if (values.some((value) => value.length > MAX_LENGTH)) throw bad(`${name} is too long`)
  }
  const one = (name: string): string | undefined => query[name]?.[0]
  const paths = (name: string): string[][] => one(name)?.split(',').map(parsePath) ?? []
  const filter = one('filter')
  if (one('fields') !== undefined && one('exclude_fields') !== undefined) {
    throw bad('either fields or exclude_fields')
  }
  return {
    filter:
      filter === undefined || filter === '' ? [] : split(filter, ';').map((text) => parseTest(text.trim())),
    only: one('fields') === undefined ? undefined : paths('fields'),
    without: paths('exclude_fields'),
  }
}

/** All values at a path; lists are gone through. */
function valuesAt(value: unknown, path: string[]): unknown[] {
  if (Array.isArray(value)) return value.flatMap((item) => valuesAt(item, path))
  const [name, ...rest] = path
  if (name === undefined) return [value]
  if (typeof value !== 'object' || value === null || !Object.hasOwn(value, name)) return []
  return valuesAt((value as Record<string, unknown>)[name], rest)
}

function compare(left: unknown, right: string): number {
  const numbers = [Number(left), Number(right)]
  if (numbers.every(Number.isFinite)) return numbers[0]! - numbers[1]!
  return String(left) < right ? -1 : String(left) > right ? 1 : 0
}

function passes(item: unknown, { operator, path, values }: Test): boolean {
  const found = valuesAt(item, path).map(String)
  const value = values[0] ?? ''
  switch (operator) {
    case 'eq':
      return found.includes(value)
    case 'neq':
      return !found.includes(value)
    case 'gt':
      return found.some((one) => compare(one, value) > 0)
    case 'lt':
      return found.some((one) => compare(one, value) < 0)
    case 'gte':
      return found.some((one) => compare(one, value) >= 0)
    case 'lte':
      return found.some((one) => compare(one, value) <= 0)
    case 'in':
      return found.some((one) => values.includes(one))
    case 'nin':
      return !found.some((one) => values.includes(one))
    case 'cont':
      return found.some((one) => values.some((part) => one.includes(part)))
    case 'ncont':
      return !found.some((one) => values.some((part) => one.includes(part)))
  }
}

/**
 * The items that pass all tests, without what is not selected. Only complex attributes that may be missing (`optional`) are ever left
 * out, and each as a whole: what is left is still what the standard describes.
 */
export function select(items: object[], selection: Selection, optional: string[]): object[] {
  const passing = items.filter((item) => selection.filter.every((test) => passes(item, test)))
  const { only, without } = selection
  const hidden = new Set(
    optional.filter((name) =>
      only === undefined
        ? without.some((path) => path.length === 1 && path[0] === name)
        : !only.some(([first]) => first === name),
    ),
  )
  return passing.map((item) => Object.fromEntries(Object.entries(item).filter(([name]) => !hidden.has(name))))
}
