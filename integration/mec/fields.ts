import { ShoalError } from '../../base/index.ts'

/** What is wrong with one member of a body: `pods[0].cpu`, and what it should be. */
export interface Fault {
  field: string
  detail: string
}

/** No answer lists more: a body that is wrong everywhere is no better described by all of it. */
const MAX_FAULTS = 20
const BODY = '(body)'

/**
 * Reads a JSON body member by member. A fault is noted and reading goes on with a harmless value, so that a device hears of all that is
 * wrong at once.
 */
export interface Reader {
  fault(field: string, detail: string): void
  /** With `known`, other members are faults. */
  record(value: unknown, field: string, known?: readonly string[]): Record<string, unknown>
  text(value: unknown, field: string, limits: { max: number; pattern?: RegExp; form?: string }): string
  whole(value: unknown, field: string, limits: { min: number; max: number }): number
  flag(value: unknown, field: string): boolean
  choice<T extends string>(value: unknown, field: string, choices: readonly T[]): T
  /** An absolute URI. */
  uri(value: unknown, field: string): string
  list<T>(
    value: unknown,
    field: string,
    limits: { min?: number; max: number },
    read: (item: unknown, field: string) => T,
  ): T[]
  /** Undefined for a member that is not there. */
  optional<T>(value: unknown, read: (value: unknown) => T): T | undefined
}

/** `a.b` for member b of a; a body's own members have no prefix. */
export function member(field: string, name: string): string {
  return field === '' ? name : `${field}.${name}`
}

function createReader(faults: Fault[]): Reader {
  const fault = (field: string, detail: string): void => {
    // What is not there has no members: they are not missing as well.
    const above = faults.some(
      (known) =>
        known.field === BODY || field.startsWith(`${known.field}.`) || field.startsWith(`${known.field}[`),
    )
    if (!above && faults.length < MAX_FAULTS) faults.push({ field: field === '' ? BODY : field, detail })
  }
  const bad = <T>(field: string, value: unknown, detail: string, instead: T): T => {
    fault(field, value === undefined ? `is missing: ${detail}` : detail)
    return instead
  }
  const reader: Reader = {
    fault,
    record(value, field, known) {
      if (typeof value !== 'object' || value === null || Array.isArray(value)) {
        return bad(field, value, 'must be an object', {})
      }
      if (known) {
        for (const name of Object.keys(value)) {
          if (!known.includes(name)) fault(member(field, name.slice(0, 80)), 'is not known here')
        }
      }
      return value as Record<string, unknown>
    },
    text(value, field, { max, pattern, form }) {
      if (typeof value !== 'string') return bad(field, value, 'must be a string', '')
      if (value === '') return bad(field, value, 'must not be empty', '')
      // Characters, as people count them: an emoji is one.
      if ([...value].length > max) return bad(field, value, `must have ${max} characters at most`, '')
      if (pattern && !pattern.test(value)) return bad(field, value, `must be ${form}`, '')
      return value
    },
    whole(value, field, { min, max }) {
      if (!Number.isInteger(value) || (value as number) < min || (value as number) > max) {
        return bad(field, value, `must be a whole number from ${min} to ${max}`, min)
      }
      return value as number
    },
    flag(value, field) {
      return typeof value === 'boolean' ? value : bad(field, value, 'must be true or false', false)
    },
    choice(value, field, choices) {
      const found = choices.find((choice) => choice === value)
      return found ?? bad(field, value, `must be one of ${choices.join(', ')}`, choices[0]!)
    },
    uri(value, field) {
      const text = reader.text(value, field, { max: 2048 })
      if (text !== '' && !(URL.canParse(text) && /^[\x21-\x7e]+$/.test(text))) {
        return bad(field, value, 'must be an absolute URI', '')
      }
      return text
    },
    list(value, field, { min = 0, max }, read) {
      if (!Array.isArray(value)) return bad(field, value, 'must be a list', [])
      if (value.length < min || value.length > max) {
        return bad(field, value, `must have ${min} to ${max} entries`, [])
      }
      return value.map((item, i) => read(item, `${field}[${i}]`))
    },
    optional: (value, read) => (value === undefined ? undefined : read(value)),
  }
  return reader
}

/** @throws USAGE with all faults, in `details.faults` too */
export function readBody<T>(read: (reader: Reader) => T): T {
  const faults: Fault[] = []
  const result = read(createReader(faults))
  if (faults.length > 0) throw malformed(faults)
  return result
}

export function malformed(faults: Fault[]): ShoalError {
  const message = faults.map(({ field, detail }) => `${field} ${detail}`).join('; ')
  return new ShoalError('USAGE', message, { details: { faults } })
}
