/** Suffixes of Kubernetes' quantities: decimal and binary. */
const FACTORS: Record<string, number> = {
  '': 1,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
}

/** Cores of `250m`, `1`, `0.5`; undefined for anything else. Thousandths of a core are the finest there is. */
export function parseCpu(text: string): number | undefined {
  const milli = /^(\d{1,9})m$/.exec(text)
  if (milli) return Number(milli[1]) / 1000
  return /^\d{1,6}(\.\d{1,3})?$/.test(text) ? Number(text) : undefined
}

/** Bytes of `64Mi`, `100M`, `1.5Gi`, `1048576`; undefined for anything else. */
export function parseQuantity(text: string): number | undefined {
  const match = /^(\d{1,16}(?:\.\d{1,6})?)([kMGT]|[KMGT]i)?$/.exec(text)
  const factor = FACTORS[match?.[2] ?? '']
  if (!match || factor === undefined) return undefined
  const bytes = Number(match[1]) * factor
  return Number.isInteger(bytes) && Number.isSafeInteger(bytes) ? bytes : undefined
}

export function formatCpu(cores: number): string {
  return Number.isInteger(cores) ? String(cores) : `${Math.round(cores * 1000)}m`
}

/** In the largest binary unit that gives a whole number. */
export function formatQuantity(bytes: number): string {
  for (const unit of ['Ti', 'Gi', 'Mi', 'Ki']) {
    const count = bytes / FACTORS[unit]!
    if (count >= 1 && Number.isInteger(count)) return `${count}${unit}`
  }
  return String(bytes)
}
