import type { ReadyCheck } from './types.ts'

/** What must hold before the node is ready; each starts as not holding. */
export interface Readiness {
  ok(name: string): void
  fail(name: string, reason: string): void
  checks(): ReadyCheck[]
}

export function createReadiness(names: Record<string, string>): Readiness {
  const checks = new Map<string, ReadyCheck>(
    Object.entries(names).map(([name, reason]) => [name, { name, ok: false, reason }]),
  )
  return {
    ok: (name) => void checks.set(name, { name, ok: true }),
    fail: (name, reason) => void checks.set(name, { name, ok: false, reason }),
    checks: () => [...checks.values()],
  }
}
