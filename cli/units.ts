import { parseBytes, ShoalError } from '../base/index.ts'

const MS: Record<string, number> = { ms: 1, s: 1e3, m: 60e3, h: 3600e3, d: 86400e3 }

/** Milliseconds of `500ms`, `10s`, `1m30s`, `2h`, `1d`; a bare number is seconds. @throws ShoalError CONFIG */
export function parseDuration(text: string): number {
  const trimmed = text.trim()
  if (/^\d+(\.\d+)?$/.test(trimmed)) return Math.round(Number(trimmed) * 1e3)
  if (!/^(?:\d+(?:\.\d+)?(?:ms|[smhd]))+$/.test(trimmed)) {
    throw new ShoalError('CONFIG', `not a duration (such as 10s or 5m): ${text}`)
  }
  let total = 0
  for (const [, count, unit] of trimmed.matchAll(/(\d+(?:\.\d+)?)(ms|[smhd])/g)) {
    total += Number(count) * (MS[unit ?? ''] ?? 0)
  }
  return Math.round(total)
}

/** `3725000` as `1h 2m`: the two largest units that say something. */
export function formatDuration(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)}ms`
  if (ms < 10_000) return `${(ms / 1000).toFixed(1)}s`
  const seconds = Math.round(ms / 1000)
  const parts: [number, string][] = [
    [Math.floor(seconds / 86400), 'd'],
    [Math.floor(seconds / 3600) % 24, 'h'],
    [Math.floor(seconds / 60) % 60, 'm'],
    [seconds % 60, 's'],
  ]
  const first = parts.findIndex(([count]) => count > 0)
  return parts
    .slice(first, first + 2)
    .filter(([count]) => count > 0)
    .map(([count, unit]) => `${count}${unit}`)
    .join(' ')
}

/** `85` or `85%` as 0.85; more than nothing and at most all. @throws ShoalError CONFIG */
export function parsePercent(text: string): number {
  const value = /^\s*(\d+(?:\.\d+)?)\s*%?\s*$/.exec(text)?.[1]
  const part = Number(value) / 100
  if (!(part > 0 && part <= 1)) throw new ShoalError('CONFIG', `not a percentage from 1 to 100: ${text}`)
  return part
}

/** Bytes a second of `10MB`, `10MiB/s` or, as links are sold, `100Mbit/s`. @throws ShoalError CONFIG */
export function parseRate(text: string): number {
  const bare = text.trim().replace(/\/s$|ps$/i, '')
  const bits = /^(\d+(?:\.\d+)?)\s*([kmg]?)bit$/i.exec(bare)
  if (bits) return Math.round(parseBytes(`${bits[1]}${bits[2]}`) / 8)
  try {
    return parseBytes(bare)
  } catch {
    throw new ShoalError('CONFIG', `not a rate (such as 10MB/s or 100Mbit/s): ${text}`)
  }
}
