import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http'
import type { Readiness } from './readiness.ts'
import type { Problem } from './types.ts'

/** The API's listener from the first moment on: alive, not ready, and nothing else until `open` hands over the real one. */
export interface Gate {
  listener: RequestListener
  open(listener: RequestListener): void
}

export function createGate(readiness: Readiness): Gate {
  let inside: RequestListener | undefined

  function answer(res: ServerResponse, status: number, type: string, body: unknown): void {
    res.writeHead(status, { 'Content-Type': type, 'Cache-Control': 'no-store' })
    res.end(JSON.stringify(body))
  }

  function closed(req: IncomingMessage, res: ServerResponse): void {
    const path = (req.url ?? '').split('?')[0]
    if (path === '/healthz') {
      answer(res, 200, 'application/json', { status: 'alive' })
      return
    }
    if (path === '/readyz') {
      answer(res, 503, 'application/json', { ready: false, checks: readiness.checks() })
      return
    }
    const waiting = readiness.checks().flatMap(({ ok, reason }) => (ok ? [] : [reason]))
    const problem: Problem = {
      type: 'urn:shoal:problem:no-daemon',
      title: 'Starting',
      status: 503,
      detail: `the daemon is starting: ${waiting.join('; ')}`,
      code: 'NO_DAEMON',
    }
    res.setHeader('Retry-After', '1')
    answer(res, 503, 'application/problem+json', problem)
  }

  return {
    listener: (req, res) => (inside ?? closed)(req, res),
    open: (listener) => {
      inside = listener
    },
  }
}
