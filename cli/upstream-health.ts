import { isShoalError } from '../base/index.ts'
import type { OriginAnswer } from '../manager/index.ts'
import type { Upstream } from '../proxy/index.ts'
import type { UpstreamHealth } from './api/index.ts'

/** A client may name any host: past so many the rest is counted as one. */
const MAX_HOSTS = 32
const REST = 'others'

/** Given up by whoever asked: that says nothing of upstream. */
function isAbort(error: unknown): boolean {
  return isShoalError(error, 'ABORTED') || (error as Error).name === 'AbortError'
}

/** Counts what is asked of each upstream host and how that went, without looking into it. */
export function watchUpstream(
  upstream: Upstream,
  now: () => number = Date.now,
): { upstream: Upstream; health: () => UpstreamHealth[] } {
  const hosts = new Map<string, UpstreamHealth>()

  function entry(host: string): UpstreamHealth {
    const name = hosts.has(host) || hosts.size < MAX_HOSTS ? host : REST
    const known = hosts.get(name) ?? { host: name, requests: 0, failures: 0 }
    hosts.set(name, known)
    return known
  }

  function failed(health: UpstreamHealth, error: unknown): void {
    health.failures++
    health.lastFailureAt = now()
    health.lastError = (error as Error).message.slice(0, 200)
  }

  /** An upstream that says no (404, 403) works; one that cannot be reached or breaks off does not. */
  async function watch<T>(host: string, ask: () => Promise<T>): Promise<T> {
    const health = entry(host)
    health.requests++
    try {
      const answer = await ask()
      health.lastOkAt = now()
      return answer
    } catch (error) {
      if (isShoalError(error, 'NOT_FOUND', 'DENIED', 'UNAUTHORIZED')) health.lastOkAt = now()
      else if (!isAbort(error)) failed(health, error)
      throw error
    }
  }

  /** No generator: one that was never begun would not pass `return` on, and the connection would stay open. */
  function watchBody(host: string, body: AsyncIterable<Uint8Array>): AsyncIterable<Uint8Array> {
    return {
      [Symbol.asyncIterator]: () => {
        const inner = body[Symbol.asyncIterator]()
        return {
          next: () =>
            inner.next().catch((error: unknown) => {
              if (!isAbort(error)) failed(entry(host), error)
              throw error
            }),
          return: async () => (await inner.return?.()) ?? { done: true, value: undefined },
        }
      },
    }
  }

  const watchAnswer = async <T extends OriginAnswer>(host: string, ask: () => Promise<T>): Promise<T> => {
    const answer = await watch(host, ask)
    return { ...answer, body: watchBody(host, answer.body) }
  }

  return {
    health: () => [...hosts.values()],
    upstream: {
      ...upstream,
      head: (ref, ...rest) => watch(ref.host, () => upstream.head(ref, ...rest)),
      fetch: (ref, ...rest) => watchAnswer(ref.host, () => upstream.fetch(ref, ...rest)),
      get: (ref, ...rest) => watch(ref.host, () => upstream.get(ref, ...rest)),
      origin: (ref, ...rest) => {
        const origin = upstream.origin(ref, ...rest)
        return {
          ...origin,
          fetch: (range, signal) => watchAnswer(ref.host, () => origin.fetch(range, signal)),
        }
      },
    },
  }
}
