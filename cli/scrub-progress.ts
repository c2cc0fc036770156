import { formatBytes } from '../base/index.ts'
import type { ScrubStatus } from './api/types.ts'
import { type Io, percent } from './output.ts'
import { bar, PLAIN_EVERY_MS, REDRAW_MS } from './progress.ts'

/** Shows a scrub while it goes on. */
export interface ScrubProgress {
  update(scrub: ScrubStatus): void
  /** Draws the last state and leaves the cursor below it. */
  end(): void
}

/** One line that fits in `columns`; what comes and goes meanwhile may make more of it than there was. */
export function scrubLine({ bytes, total, bad }: ScrubStatus, columns: number): string {
  const amount = `${formatBytes(bytes)} / ${formatBytes(total)} (${percent(bytes, total)})`
  const tail = `${amount}${bad > 0 ? `, ${bad} bad` : ''}`
  const room = Math.min(40, columns - tail.length - 4)
  const drawn = room >= 8 ? `${bar(total === 0 ? 1 : bytes / total, room)} ` : ''
  return `${drawn}${tail}`.slice(0, Math.max(0, columns - 1))
}

/** A bar that is redrawn in place on a terminal; else a line now and then. */
export function createScrubProgress(err: Io['err'], now: () => number = Date.now): ScrubProgress {
  let last: ScrubStatus | undefined
  let shownAt = err.isTTY ? Number.NEGATIVE_INFINITY : now()
  const show = (scrub: ScrubStatus): void => {
    shownAt = now()
    const line = scrubLine(scrub, err.isTTY ? (err.columns ?? 80) : 80)
    err.write(err.isTTY ? `\r\x1b[K${line}` : `${line}\n`)
  }
  return {
    update: (scrub) => {
      last = scrub
      if (now() - shownAt >= (err.isTTY ? REDRAW_MS : PLAIN_EVERY_MS)) show(scrub)
    },
    end: () => {
      if (!last || !err.isTTY) return
      show(last)
      err.write('\n')
    },
  }
}
