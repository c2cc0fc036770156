import { ShoalError } from '../../base/index.ts'
import type { Upstream } from '../types.ts'
import { type Ask, labelOf } from './ask.ts'
import type { Exchange } from './exchange.ts'
import { isOutage } from './failure.ts'
import type { Gate } from './gate.ts'
import type { Page } from './route.ts'
import type { Tags } from './tags.ts'

export type Answer = Awaited<ReturnType<Upstream['get']>>

/**
 * GET of a list below a repository; the statuses that are errors are thrown as such. `absent` says which status is an
 * answer all the same.
 */
export async function getList(
  parts: { upstream: Upstream; gate: Gate; patienceMs: number },
  ask: Ask,
  path: string,
  absent?: number,
): Promise<Answer> {
  const { upstream, gate, patienceMs } = parts
  const { ref, credential, via, signal } = ask
  const question = async (): Promise<Answer> => {
    const options = { credential, via, signal, timeoutMs: Math.round(patienceMs * 0.75) }
    const answer = await upstream.get(ref, path, options)
    const { status, headers } = answer
    if (status === 200 || status === absent) return answer
    const what = `${labelOf(ref)}/${path}`
    if (status === 401) {
      const challenge = headers['www-authenticate']
      throw new ShoalError('UNAUTHORIZED', `upstream wants credentials for ${what}`, {
        details: challenge === undefined ? {} : { challenge },
      })
    }
    if (status === 403) throw new ShoalError('DENIED', `upstream refuses ${what}`)
    if (status === 404) throw new ShoalError('NOT_FOUND', `upstream has no ${what}`)
    const retryAfter = headers['retry-after']
    throw new ShoalError('UPSTREAM_STATUS', `upstream answered ${status} for ${what}`, {
      details: { status, ...(retryAfter === undefined ? {} : { retryAfter }) },
    })
  }
  return gate.noting(ask, question)
}

/** Answers GET and HEAD of `tags/list`. */
export function createServeTags(parts: {
  upstream: Upstream
  gate: Gate
  tags: Tags
  patienceMs: number
  now: () => number
}): (exchange: Exchange, ask: Ask, page: Page) => Promise<void> {
  const { gate, tags, now } = parts

  async function ofUpstream(exchange: Exchange, ask: Ask, page: Page): Promise<void> {
    const query = page.query.toString()
    const answer = await getList(parts, ask, query === '' ? 'tags/list' : `tags/list?${query}`)
    const link = nextLink(answer.headers.link, page)
    exchange.reply(
      200,
      {
        'Content-Type': 'application/json',
        'X-Shoal-Source': 'upstream',
        ...(link === undefined ? {} : { Link: link }),
      },
      answer.body,
    )
  }

  async function ofMemory(exchange: Exchange, ask: Ask, page: Page, n: number | undefined): Promise<void> {
    const all = await tags.known(ask.ref)
    if (all.length === 0) {
      throw new ShoalError(
        'UPSTREAM_UNREACHABLE',
        `${labelOf(ask.ref)}: unreachable, and no tag is known here`,
      )
    }
    const last = page.query.get('last')
    const after = all.map(({ tag }) => tag).filter((tag) => last === null || tag > last)
    const shown = after.slice(0, n)
    const end = shown.at(-1)
    const more = end !== undefined && shown.length < after.length
    const link = more ? nextLink(`<?n=${n}&last=${encodeURIComponent(end)}>; rel="next"`, page) : undefined
    const confirmed = Math.max(...all.map(({ record }) => record.at))
    const stale = Math.max(0, Math.round((now() - confirmed) / 1000))
    exchange.facts.stale = stale
    exchange.reply(
      200,
      {
        'Content-Type': 'application/json',
        'X-Shoal-Source': 'local',
        'X-Shoal-Stale': stale,
        ...(link === undefined ? {} : { Link: link }),
      },
      Buffer.from(JSON.stringify({ name: ask.ref.repository, tags: shown })),
    )
  }

  return async (exchange, ask, page) => {
    const n = page.query.get('n')
    if (n !== null && !/^\d{1,9}$/.test(n)) throw new ShoalError('USAGE', 'n is not a number of tags')
    try {
      await ofUpstream(exchange, ask, page)
    } catch (error) {
      if (!isOutage(error) || ask.signal.aborted) throw error
      await gate.offline(ask, error)
      await ofMemory(exchange, ask, page, n === null ? undefined : Number(n))
    }
  }
}

/** Upstream's link to the next page, turned to our own path with the query that upstream wants. */
export function nextLink(header: string | undefined, page: Page): string | undefined {
  const target = /<([^>]*)>\s*;[^,]*\brel\s*=\s*"?next"?/i.exec(header ?? '')?.[1]
  if (target === undefined || !URL.canParse(target, 'http://upstream.invalid/')) return undefined
  const query = new URL(target, 'http://upstream.invalid/').searchParams
  query.delete('ns')
  if (page.ns !== undefined) query.set('ns', page.ns)
  return `<${page.path}?${query}>; rel="next"`
}
