import type { ComponentLogger, Logger } from '@libp2p/interface'

/**
 * A libp2p logger that says nothing. libp2p logs several lines a message; the default logger checks each against an
 * environment variable and makes a new object a stream, which shows in profiles.
 */
export function quietLogger(): ComponentLogger {
  const silence = (): void => {}
  const log: Logger = Object.assign(silence, {
    error: silence,
    trace: silence,
    enabled: false,
    newScope: () => log,
  })
  return { forComponent: () => log }
}
