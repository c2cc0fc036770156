import type { Platform } from '../../integration/index.ts'
import type { Route } from './routes.ts'

/** What is served of checkpoints, migrations and tokens of devices. */
export function createPlatformRoutes(_platform: Platform): Route[] {
  return []
}
