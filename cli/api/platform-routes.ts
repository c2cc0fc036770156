import type { Platform } from '../../integration/index.ts'
import type { CheckpointJobs } from './checkpoint-jobs.ts'
import { createCheckpointRoutes } from './checkpoint-routes.ts'
import { createMecRoutes } from './mec-routes.ts'
import { createMigrationRoutes } from './migration-routes.ts'
import type { Route } from './routes.ts'

/** What is served of checkpoints, migrations and tokens of devices. */
export function createPlatformRoutes(platform: Platform, checkpoints: CheckpointJobs): Route[] {
  return [
    ...createCheckpointRoutes(platform, checkpoints),
    ...createMigrationRoutes(platform),
    ...createMecRoutes(() => platform.mec),
  ]
}
