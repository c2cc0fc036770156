import type { Checkpoints, Migrations, Platform, Runtimes } from '../../integration/index.ts'

function absent(): never {
  throw new Error('this test has no runtimes')
}

/** A platform without runtimes; what a test needs of it, it gives itself. */
export function standInPlatform(over: Partial<Platform> = {}): Platform {
  const runtimes: Runtimes = {
    list: () => [],
    get: async () => absent(),
    find: async () => absent(),
    close: async () => {},
  }
  return {
    runtimes,
    checkpoints: async (): Promise<Checkpoints> => absent(),
    migrations: async () => ({ list: () => [], get: () => undefined }) as Partial<Migrations> as Migrations,
    onMigration: () => () => {},
    close: async () => {},
    ...over,
  }
}
