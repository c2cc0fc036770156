import type { Log } from '../../base/index.ts'
import { createDockerConfig, type Secret } from './docker-config.ts'
import { canonicalHost, type Target } from './hosts.ts'

/** The part of a target that says whose credentials fit. */
type Whose = Pick<Target, 'host' | 'credentialHost'>

export type { Secret }

/** Helpers may be slow or ask a person: their answers are kept for this long. */
const KEEP_MS = 60_000

/** What this node has been given for the registries. */
export interface Secrets {
  find(target: Whose, signal: AbortSignal): Promise<Secret | undefined>
  /** Upstream refused it: look again next time. */
  forget(target: Whose): void
}

/**
 * The configuration's entry for the name people write goes first, then the one for the host it is mapped to, then docker's
 * config.json, and that only for the host that is really asked: a log-in for Docker Hub is not shown to its mirror.
 */
export function createSecrets(options: {
  credentials: Record<string, { username: string; password: string }>
  dockerConfig: string | undefined
  log: Log
}): Secrets {
  const { dockerConfig, log } = options
  const given = new Map(
    Object.entries(options.credentials).map(([host, secret]) => [canonicalHost(host), secret] as const),
  )
  const docker = dockerConfig === undefined ? undefined : createDockerConfig({ file: dockerConfig, log })
  const kept = new Map<string, { secret: Promise<Secret | undefined>; until: number }>()

  return {
    async find(target, signal) {
      const configured = given.get(target.host) ?? given.get(target.credentialHost)
      if (configured || !docker) return configured
      const now = performance.now()
      let entry = kept.get(target.credentialHost)
      if (!entry || entry.until < now) {
        entry = { secret: docker.find(target.credentialHost, signal), until: now + KEEP_MS }
        kept.set(target.credentialHost, entry)
      }
      return entry.secret
    },
    forget(target) {
      kept.delete(target.credentialHost)
    },
  }
}
