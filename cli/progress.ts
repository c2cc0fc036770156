import { formatBytes } from '../base/index.ts'
import type { StoringStatus } from './api/storings.ts'
import type { PullBlob, PullStatus } from './api/types.ts'
import { type Io, percent, shortDigest } from './output.ts'

export const REDRAW_MS = 100
export const PLAIN_EVERY_MS = 5000
/** Widths of `999 KiB / 999 KiB` and `peers 99 % upstream 1 %`. */
const AMOUNT = 17
const ORIGIN = 24

/** Shows a pull or a storing while it goes on. */
export interface Progress<T> {
  update(status: T): void
  /** Draws the last state and leaves the cursor below it. */
  end(): void
}

/** `share` (0 to 1) of so many columns between brackets. */
export function bar(share: number, width: number): string {
  const filled = Math.round(Math.min(1, Math.max(0, share)) * width)
  return `[${'='.repeat(filled)}${filled < width ? '>' : ''}${' '.repeat(Math.max(0, width - filled - 1))}]`
}

/** Where a blob's bytes came from, in as few letters as say it. */
function origin({ sources }: PullBlob): string {
  const { local, peers, upstream } = sources
  const all = local + peers + upstream
  return (
    [
      ['local', local],
      ['peers', peers],
      ['upstream', upstream],
    ] as const
  )
    .filter(([, bytes]) => bytes > 0)
    .map(([name, bytes]) => (bytes === all ? name : `${name} ${percent(bytes, all)}`))
    .join(' ')
}

/** One line for a blob that fits in `columns`: on a narrow terminal the bar goes first, then the rest is cut. */
export function blobLine(blob: PullBlob, columns: number): string {
  const { size, bytesHere, state } = blob
  const name = `${shortDigest(blob.digest)} ${blob.kind.padEnd(8)}`
  const amount =
    size === undefined ? formatBytes(bytesHere) : `${formatBytes(bytesHere)} / ${formatBytes(size)}`
  const tail = `${amount.padStart(AMOUNT)}  ${state === 'running' || state === 'done' ? origin(blob) : state}`
  // The tail's last part comes and goes; the bar must not move with it.
  const room = columns - 1 - name.length - AMOUNT - 4 - ORIGIN
  const middle =
    room >= 8 && size !== undefined ? ` ${bar(size === 0 ? 1 : bytesHere / size, Math.min(room, 40))}` : ''
  return `${name}${middle} ${tail}`.trimEnd().slice(0, Math.max(0, columns - 1))
}

/** The lines of a pull for a terminal of that size; what moves is shown before what is done or waits. */
export function pullLines(pull: PullStatus, columns: number, rows: number): string[] {
  const room = Math.max(1, rows - 3)
  let blobs = pull.blobs
  if (blobs.length > room) {
    const order = { running: 0, failed: 1, waiting: 2, done: 3 }
    const chosen = new Set(blobs.toSorted((a, b) => order[a.state] - order[b.state]).slice(0, room - 1))
    blobs = blobs.filter((blob) => chosen.has(blob))
  }
  const lines = blobs.map((blob) => blobLine(blob, columns))
  const hidden = pull.blobs.length - blobs.length
  if (hidden > 0) lines.push(`and ${hidden} more`.slice(0, columns - 1))
  const done =
    pull.size === undefined ? '' : ` of ${formatBytes(pull.size)} (${percent(pull.bytesHere, pull.size)})`
  lines.push(`${formatBytes(pull.bytesHere)}${done}`.slice(0, Math.max(0, columns - 1)))
  return lines
}

/** A few lines that are redrawn in place. */
function onTerminal<T>(
  err: Io['err'],
  now: () => number,
  linesOf: (status: T, columns: number, rows: number) => string[],
): Progress<T> {
  let drawn = 0
  let last: T | undefined
  let drawnAt = Number.NEGATIVE_INFINITY

  function draw(): void {
    if (!last) return
    drawnAt = now()
    const lines = linesOf(last, err.columns ?? 80, err.rows ?? 24)
    // Up to where the last drawing began, then clear to the end of the screen.
    err.write(`${drawn > 0 ? `\x1b[${drawn}A` : ''}\r\x1b[J${lines.join('\n')}\n`)
    drawn = lines.length
  }

  return {
    update: (status) => {
      last = status
      if (now() - drawnAt >= REDRAW_MS) draw()
    },
    end: draw,
  }
}

/** For logs and pipes: a line for each blob that ends, and now and then how far all is. */
function inLines(err: Io['err'], now: () => number): Progress<PullStatus> {
  const told = new Set<string>()
  let saidAt = now()
  return {
    update: (pull) => {
      for (const blob of pull.blobs) {
        if ((blob.state !== 'done' && blob.state !== 'failed') || told.has(blob.digest)) continue
        told.add(blob.digest)
        const from = blob.state === 'done' ? origin(blob) : 'failed'
        err.write(
          `${shortDigest(blob.digest)} ${blob.kind} ${formatBytes(blob.size ?? blob.bytesHere)} ${from}\n`,
        )
      }
      if (now() - saidAt >= PLAIN_EVERY_MS && pull.state === 'running') {
        saidAt = now()
        err.write(`${pullLines({ ...pull, blobs: [] }, 80, 24).join('')}\n`)
      }
    },
    end: () => {},
  }
}

export function createProgress(err: Io['err'], now: () => number = Date.now): Progress<PullStatus> {
  return err.isTTY ? onTerminal(err, now, pullLines) : inLines(err, now)
}

/** The line of a storing: its bytes are counted once a copy. */
export function storeLines(storing: StoringStatus, columns: number): string[] {
  const { blobs, blobsDone, bytes, bytesDone } = storing
  const amount = `${formatBytes(bytesDone)} / ${formatBytes(bytes)}`.padStart(AMOUNT)
  const tail = `${amount}  ${blobsDone} of ${blobs} blobs`
  const room = columns - 2 - tail.length
  const begun = room >= 8 && bytes > 0 ? `${bar(bytesDone / bytes, Math.min(room - 2, 40))} ` : ''
  return [`${begun}${tail}`.slice(0, Math.max(0, columns - 1))]
}

export function createStoreProgress(err: Io['err'], now: () => number = Date.now): Progress<StoringStatus> {
  if (err.isTTY) return onTerminal(err, now, storeLines)
  let saidAt = now()
  return {
    update: (storing) => {
      if (now() - saidAt < PLAIN_EVERY_MS || storing.state !== 'running') return
      saidAt = now()
      err.write(`${storeLines(storing, 60).join('')}\n`)
    },
    end: () => {},
  }
}

/** A line that is written anew on a terminal, and elsewhere each time that it differs. */
export function createLineProgress<T>(
  err: Io['err'],
  lineOf: (status: T) => string,
  now: () => number = Date.now,
): Progress<T> {
  if (err.isTTY) return onTerminal<T>(err, now, (status, columns) => [lineOf(status).slice(0, columns - 1)])
  let said: string | undefined
  return {
    update: (status) => {
      const line = lineOf(status)
      if (line !== said) err.write(`${line}\n`)
      said = line
    },
    end: () => {},
  }
}
