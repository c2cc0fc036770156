/** What a room needs of a logger; pino's loggers fit. Fields first, then the message, as pino has it. */
export interface Log {
  debug(fields: object, message: string): void
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
  child(bindings: Record<string, unknown>): Log
}

/** A logger that says nothing: for tests, and for commands that need none. */
export function silentLog(): Log {
  const quiet = (): void => {}
  const log: Log = { debug: quiet, info: quiet, warn: quiet, error: quiet, child: () => log }
  return log
}
