import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import type { PullReport, Pushed, Site } from '../lab/index.ts'

/** Why tests that need a lab and these commands cannot run here; false when they can. For the `skip` of a suite. */
export function lacking(...commands: string[]): string | false {
  if (process.getuid?.() !== 0) return 'needs root for network namespaces'
  const wanted = ['ip', 'tc', 'nsenter', 'curl', 'docker-registry', ...commands]
  const missing = wanted.filter((command) => {
    try {
      execFileSync('sh', ['-c', `command -v ${command}`], { stdio: 'ignore' })
      return false
    } catch {
      return true
    }
  })
  return missing.length > 0 ? `needs ${missing.join(', ')}` : false
}

/** Runs the body; where it fails, the ends of the daemons' logs go to stderr before the error goes on. */
export async function explained<T>(site: () => Site | undefined, body: () => Promise<T>): Promise<T> {
  try {
    return await body()
  } catch (error) {
    process.stderr.write(`${site()?.logs() ?? ''}\n`)
    throw error
  }
}

/** The client computes every digest from the bytes; this holds the report against what was pushed. */
export function assertWhole(report: PullReport, pushed: Pushed, who = 'the pull'): void {
  assert.equal(report.error, undefined, `${who}: ${report.error}`)
  assert.ok(report.ok, who)
  assert.equal(report.digest, pushed.digest, `${who} got another manifest`)
  assert.equal(report.bytes, pushed.bytes, `${who} got another number of bytes`)
  const wanted = [pushed.config, ...pushed.layers.map((layer) => layer.digest)].sort()
  assert.deepEqual(report.blobs.map((blob) => blob.digest).sort(), [...new Set(wanted)])
}

export function assertAllWhole(reports: PullReport[], pushed: Pushed): void {
  for (const [i, report] of reports.entries()) assertWhole(report, pushed, `node ${i + 1}`)
}
