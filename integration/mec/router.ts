import { isShoalError, type Log, ShoalError } from '../../base/index.ts'
import { problemOf } from './problem.ts'
import type { Call, MecRoute, Reply } from './types.ts'

/** Which route a path belongs to, whoever asks. */
export interface Router {
  /** Methods that are possible at a path; undefined: there is nothing. */
  allowed(path: string): string[] | undefined
  /** Never rejects: a failure is a reply too. */
  handle(call: Call): Promise<Reply>
}

interface Matcher {
  route: MecRoute
  pattern: RegExp
}

export function createRouter(routes: MecRoute[], log: Log): Router {
  const matchers: Matcher[] = routes.map((route) => ({
    route,
    pattern: new RegExp(`^${route.path.replaceAll(/\{(\w+)\}/g, '(?<$1>[^/]+)')}$`),
  }))
  const at = (path: string): Matcher[] => matchers.filter(({ pattern }) => pattern.test(path))

  async function answer(call: Call): Promise<Reply> {
    const found = at(call.path).find(({ route }) => route.method === call.method.toLowerCase())
    if (!found) throw new ShoalError('NOT_FOUND', 'there is nothing here')
    return found.route.handle(call, { ...found.pattern.exec(call.path)?.groups })
  }

  return {
    allowed(path) {
      const methods = at(path).map(({ route }) => route.method.toUpperCase())
      if (methods.length === 0) return undefined
      return methods.includes('GET') ? [...methods, 'HEAD'] : methods
    },
    async handle(call) {
      try {
        return await answer(call)
      } catch (error) {
        if (!isShoalError(error)) {
          log.error({ err: error, ue: call.ue, path: call.path }, 'a request of a device broke')
        }
        return refusal(problemOf(error))
      }
    },
  }
}

export function refusal(problem: ReturnType<typeof problemOf>): Reply {
  const { status } = problem
  return {
    status,
    headers: {
      'Content-Type': 'application/problem+json',
      ...(status === 429 || status === 503 ? { 'Retry-After': '1' } : {}),
      ...(status === 401 ? { 'WWW-Authenticate': 'Bearer realm="shoal", error="invalid_token"' } : {}),
    },
    body: problem,
  }
}
