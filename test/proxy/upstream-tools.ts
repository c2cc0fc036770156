import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { silentLog } from '../../base/index.ts'
import type { Upstream, UpstreamConfig, UpstreamOptions } from '../../proxy/types.ts'
import { createUpstream } from '../../proxy/upstream/index.ts'
import { type FakeRegistry, type FakeRegistryOptions, startFakeRegistry } from '../fakes/registry.ts'

/** A fake registry that the test closes. */
export async function fake(t: TestContext, options: FakeRegistryOptions = {}): Promise<FakeRegistry> {
  const registry = await startFakeRegistry(options)
  t.after(() => registry.close())
  return registry
}

/** A client that the test closes. */
export function client(t: TestContext, config: Partial<UpstreamConfig> = {}): Upstream {
  const upstream = createUpstream({
    config: {
      mirrors: {},
      credentials: {},
      ca: [],
      stallMs: 10_000,
      connectMs: 5_000,
      retries: 2,
      ...config,
    },
    log: silentLog(),
  })
  t.after(() => upstream.close())
  return upstream
}

/** The node's rights, and a signal that nobody aborts. */
export function asNode(more: Partial<UpstreamOptions> = {}): UpstreamOptions {
  return { credential: { kind: 'node' }, signal: new AbortController().signal, ...more }
}

export function asClient(authorization: string): UpstreamOptions {
  return asNode({ credential: { kind: 'client', authorization } })
}

export async function collect(body: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = []
  // The chunk's memory is gone when the next one is asked for.
  for await (const part of body) parts.push(Buffer.from(part))
  return Buffer.concat(parts)
}

export function scratch(t: TestContext): string {
  const dir = mkdtempSync(join(tmpdir(), 'shoal-upstream-'))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  return dir
}

/** A self-signed certificate for 127.0.0.1, undefined where there is no openssl. */
export function certificate(dir: string): { key: string; cert: string; file: string } | undefined {
  const file = join(dir, 'cert.pem')
  const key = join(dir, 'key.pem')
  try {
    execFileSync(
      'openssl',
      [
        ...[
          'req',
          '-x509',
          '-newkey',
          'ec',
          '-pkeyopt',
          'ec_paramgen_curve:prime256v1',
          '-nodes',
          '-days',
          '2',
        ],
        ...['-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', key, '-out', file],
      ],
      { stdio: 'ignore' },
    )
  } catch {
    return undefined
  }
  return { key: readFileSync(key, 'utf8'), cert: readFileSync(file, 'utf8'), file }
}
