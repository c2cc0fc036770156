import { ShoalError } from './errors.ts'

const FACTORS: Record<string, number> = {
  '': 1,
  k: 1e3,
  m: 1e6,
  g: 1e9,
  t: 1e12,
  ki: 2 ** 10,
  mi: 2 ** 20,
  gi: 2 ** 30,
  ti: 2 ** 40,
}

/** Bytes of `512`, `10MB`, `1.5GiB`, … @throws ShoalError CONFIG */
export function parseBytes(text: string): number {
  const match = /^\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*$/i.exec(text)
  const factor = FACTORS[(match?.[2] ?? '').toLowerCase()]
  if (!match || factor === undefined) throw new ShoalError('CONFIG', `not a size: ${text}`)
  return Math.round(Number(match[1]) * factor)
}

/** `1536` as `1.5 KiB`: binary units, three significant digits at most. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  let value = bytes
  let unit = 0
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1024
    unit++
  }
  const digits = unit === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2
  return `${value.toFixed(digits)} ${units[unit]}`
}
