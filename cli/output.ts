import { formatBytes } from '../base/index.ts'
import type { Sources } from '../manager/index.ts'

/** Where commands write: data to `out`, everything else to `err`. */
export interface Io {
  out: NodeJS.WritableStream
  err: NodeJS.WritableStream & { isTTY?: boolean; columns?: number; rows?: number }
}

export interface Column {
  title: string
  /** Numbers read better when their ends are in line. */
  right?: boolean
}

/** Lines of a table whose columns are as wide as they must be, two spaces between. */
export function table(columns: Column[], rows: string[][]): string[] {
  const widths = columns.map(({ title }, i) =>
    rows.reduce((width, row) => Math.max(width, row[i]?.length ?? 0), title.length),
  )
  const line = (cells: string[]): string =>
    cells
      .map((cell, i) => (columns[i]?.right ? cell.padStart(widths[i] ?? 0) : cell.padEnd(widths[i] ?? 0)))
      .join('  ')
      .trimEnd()
  return [line(columns.map(({ title }) => title)), ...rows.map(line)]
}

/** `12.5 MiB/s`; a dash for nothing, which reads better than a zero in a long list. */
export function formatRate(bytesPerSecond: number): string {
  return bytesPerSecond > 0 ? `${formatBytes(bytesPerSecond)}/s` : '-'
}

export function percent(part: number, whole: number): string {
  return whole > 0 ? `${Math.round((100 * part) / whole)} %` : '-'
}

/** `local 0 B, peers 30 MiB (75 %), upstream 10 MiB (25 %)` */
export function formatSources({ local, peers, upstream }: Sources): string {
  const all = local + peers + upstream
  const part = (name: string, bytes: number): string =>
    `${name} ${formatBytes(bytes)}${bytes > 0 ? ` (${percent(bytes, all)})` : ''}`
  return [part('local', local), part('peers', peers), part('upstream', upstream)].join(', ')
}

/** `sha256:0123456789ab`: enough for people. */
export function shortDigest(digest: string): string {
  return digest.slice(0, digest.indexOf(':') + 13)
}

/** `12D3KooW…` at its length that people can tell apart: the end, since all begin alike. */
export function shortId(id: string): string {
  return id.length > 16 ? `…${id.slice(-8)}` : id
}

/** `3m`, `2h`, `5d`: how long ago. */
export function formatAgo(at: number, now: number): string {
  const seconds = Math.max(0, Math.round((now - at) / 1000))
  if (seconds < 60) return `${seconds}s ago`
  if (seconds < 3600) return `${Math.round(seconds / 60)}m ago`
  if (seconds < 86400) return `${Math.round(seconds / 3600)}h ago`
  return `${Math.round(seconds / 86400)}d ago`
}

export function print(io: Io, lines: string[]): void {
  io.out.write(`${lines.join('\n')}\n`)
}

export function printJson(io: Io, value: unknown): void {
  io.out.write(`${JSON.stringify(value)}\n`)
}
