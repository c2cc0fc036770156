import type { Log } from '../base/index.ts'

const LEVELS: Record<number, string> = { 20: 'debug', 30: 'info', 40: 'warn', 50: 'error', 60: 'fatal' }

/** One line for people of one of pino's records. */
export function humanLine(record: string): string {
  const { level, time, msg, err, ...fields } = JSON.parse(record) as Record<string, unknown>
  const clock = new Date(Number(time)).toTimeString().slice(0, 8)
  const rest = Object.entries(fields).map(
    ([key, value]) => `${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`,
  )
  const cause = (err as { message?: string } | undefined)?.message
  if (cause !== undefined) rest.push(`err=${JSON.stringify(cause)}`)
  return `${[clock, (LEVELS[Number(level)] ?? '').padEnd(5), msg, ...rest].join(' ')}\n`
}

/**
 * The daemon's log on stderr: JSON lines, or readable ones on a terminal. Written synchronously, so that the last words
 * of a dying process are there.
 */
export async function createLog(level: string): Promise<Log> {
  const { pino } = await import('pino')
  const options = { level, base: null }
  // Typed here: pino's own type has every member, `then` too, which no promise may resolve with.
  const log: Log = process.stderr.isTTY
    ? pino(options, { write: (record: string) => void process.stderr.write(humanLine(record)) })
    : pino(options, pino.destination({ dest: 2, sync: true }))
  return log
}
