import { randomBytes } from 'node:crypto'
import type { IncomingMessage } from 'node:http'

export interface FakeUser {
  password: string
  /** Repositories that the user may pull; all if not given. */
  repositories?: string[]
}

/** How the fake registry asks who is there. May be changed at any time. */
export interface FakeAuth {
  type: 'basic' | 'bearer'
  users: Record<string, FakeUser>
  /** Repositories that anybody may pull (with bearer: after fetching an anonymous token). */
  anonymous?: string[]
  /** Refresh tokens, as `docker login` gets from some registries, and their users. */
  identityTokens?: Record<string, string>
  /** Life of a token in seconds; default 300. `expires_in` says so unless `silentExpiry`. */
  tokenSeconds?: number
  silentExpiry?: boolean
  /** The token endpoint as told to clients, where it is not the registry's own `/token`. */
  realm?: string
  /** Further challenges put before the real one in the same header. */
  extraChallenges?: string
}

export interface AuthDesk {
  auth: FakeAuth | undefined
  /** Undefined: may pass. */
  refuse(request: IncomingMessage, repository: string | undefined, base: string): Refusal | undefined
  /** The answer of the token endpoint. */
  token(
    request: IncomingMessage,
    url: URL,
    form: URLSearchParams | undefined,
  ): { status: number; body: object }
  revokeTokens(): void
}

export interface Refusal {
  status: 401 | 403
  challenge?: string
}

interface Token {
  repositories: Set<string>
  expires: number
}

export function createAuthDesk(auth: FakeAuth | undefined): AuthDesk {
  const tokens = new Map<string, Token>()

  function allowed(user: string | undefined, repository: string): boolean {
    if (desk.auth?.anonymous?.includes(repository)) return true
    if (user === undefined) return false
    const list = desk.auth?.users[user]?.repositories
    return list === undefined || list.includes(repository)
  }

  /** The user; undefined when there are no credentials; false when they are wrong. */
  function basicUser(request: IncomingMessage): string | undefined | false {
    const match = /^Basic (.+)$/i.exec(request.headers.authorization ?? '')
    if (!match?.[1]) return undefined
    const text = Buffer.from(match[1], 'base64').toString('utf8')
    const colon = text.indexOf(':')
    const name = text.slice(0, colon)
    return desk.auth?.users[name]?.password === text.slice(colon + 1) ? name : false
  }

  function refuse(
    request: IncomingMessage,
    repository: string | undefined,
    base: string,
  ): Refusal | undefined {
    const { auth } = desk
    if (!auth) return undefined
    const before = auth.extraChallenges === undefined ? '' : `${auth.extraChallenges}, `
    if (auth.type === 'basic') {
      if (repository !== undefined && auth.anonymous?.includes(repository)) return undefined
      const user = basicUser(request)
      if (typeof user !== 'string') return { status: 401, challenge: `${before}Basic realm="fake"` }
      return repository === undefined || allowed(user, repository) ? undefined : { status: 403 }
    }
    const match = /^Bearer (.+)$/i.exec(request.headers.authorization ?? '')
    const token = tokens.get(match?.[1] ?? '')
    const valid = token !== undefined && token.expires > Date.now()
    if (valid && (repository === undefined || token.repositories.has(repository))) return undefined
    const scope = repository === undefined ? '' : `,scope="repository:${repository}:pull"`
    const error = !match ? '' : `,error="${valid ? 'insufficient_scope' : 'invalid_token'}"`
    const realm = auth.realm ?? `${base}/token`
    return { status: 401, challenge: `${before}Bearer realm="${realm}",service="fake"${scope}${error}` }
  }

  function token(request: IncomingMessage, url: URL, form: URLSearchParams | undefined) {
    const { auth } = desk
    let user: string | undefined | false
    if (form) {
      if (form.get('grant_type') === 'refresh_token') {
        user = auth?.identityTokens?.[form.get('refresh_token') ?? ''] ?? false
      } else {
        const name = form.get('username') ?? ''
        user = auth?.users[name]?.password === form.get('password') ? name : false
      }
    } else {
      user = basicUser(request)
    }
    if (user === false) return { status: 401, body: { details: 'incorrect username or password' } }
    const scopes = form ? (form.get('scope') ?? '').split(' ') : url.searchParams.getAll('scope')
    const repositories = new Set<string>()
    for (const scope of scopes) {
      const repository = /^repository:(.+):[^:]*pull[^:]*$/.exec(scope)?.[1]
      if (repository !== undefined && allowed(user, repository)) repositories.add(repository)
    }
    const value = randomBytes(12).toString('hex')
    const seconds = auth?.tokenSeconds ?? 300
    tokens.set(value, { repositories, expires: Date.now() + seconds * 1000 })
    const expiry = auth?.silentExpiry ? {} : { expires_in: seconds, issued_at: new Date().toISOString() }
    return { status: 200, body: { ...(form ? {} : { token: value }), access_token: value, ...expiry } }
  }

  const desk: AuthDesk = { auth, refuse, token, revokeTokens: () => tokens.clear() }
  return desk
}
