import { isShoalError, type Log, ShoalError } from '../../base/index.ts'
import type { Records } from '../../blockstore/index.ts'
import { exchange } from './exchange.ts'

/** A notification on its way to a device. */
export interface Note {
  /** What it is about (a context, a subscription): those of one lane go one after the other. */
  lane: string
  ue: string
  url: string
  /** The device is on this machine, and may name a loopback address. */
  allowLoopback: boolean
  body: Record<string, unknown>
  /** ms since the epoch. */
  createdAt: number
}

export interface OutboxLimits {
  /** Notes that may wait: of a lane, of a device, of all. The oldest go. */
  perLane: number
  perUe: number
  total: number
  /** Deliveries at the same time: to all, for one device, to one host. A dead host takes up no more than its own. */
  atOnce: number
  atOncePerUe: number
  atOncePerHost: number
  timeoutMs: number
  /** Wait after the first failure; doubled after each further one, up to `maxDelayMs`. */
  firstDelayMs: number
  maxDelayMs: number
  /** What could not be delivered for so long is given up. */
  maxAgeMs: number
}

const LIMITS: OutboxLimits = {
  perLane: 32,
  perUe: 256,
  total: 8192,
  atOnce: 32,
  atOncePerUe: 4,
  atOncePerHost: 4,
  timeoutMs: 5000,
  firstDelayMs: 500,
  maxDelayMs: 60e3,
  maxAgeMs: 900e3,
}

export interface Outbox {
  /** Resolves when the note would outlive the process. */
  add(note: Omit<Note, 'createdAt'>): Promise<void>
  /** Later notes of the lane go elsewhere, those that wait as well. */
  redirect(lane: string, url: string, allowLoopback: boolean): Promise<void>
  /** Nothing of the lane is sent any more. */
  forget(lane: string): Promise<void>
  /** Notes that wait, those under way included. */
  size(): number
  close(): Promise<void>
}

interface Entry {
  key: string
  note: Note
  host: string
}

interface Lane {
  entries: Entry[]
  busy: boolean
  failures: number
  /** Not before (ms since the epoch). */
  dueAt: number
}

function hostOf(url: string): string {
  return URL.canParse(url) ? new URL(url).host : ''
}

/** What says that the device will never want it, however often it is asked. */
function isFinal(status: number): boolean {
  return status >= 400 && status < 500 && ![408, 425, 429].includes(status)
}

/** Delivers notifications to devices: in order, again and again where that fails, over restarts, and bounded in every way. */
export async function createOutbox({
  records,
  log,
  limits: given = {},
  now = Date.now,
  random = Math.random,
  send = exchange,
}: {
  records: Records<Note>
  log: Log
  limits?: Partial<OutboxLimits>
  now?: () => number
  random?: () => number
  send?: typeof exchange
}): Promise<Outbox> {
  const limits = { ...LIMITS, ...given }
  const lanes = new Map<string, Lane>()
  const byUe = new Map<string, { waiting: number; busy: number }>()
  const byHost = new Map<string, number>()
  const stop = new AbortController()
  const running = new Set<Promise<void>>()
  let total = 0
  let busy = 0
  let serial = 0
  let timer: NodeJS.Timeout | undefined

  const ueOf = (ue: string): { waiting: number; busy: number } => {
    const found = byUe.get(ue) ?? { waiting: 0, busy: 0 }
    byUe.set(ue, found)
    return found
  }

  function take(key: string, note: Note): void {
    const lane = lanes.get(note.lane) ?? { entries: [], busy: false, failures: 0, dueAt: 0 }
    lanes.set(note.lane, lane)
    lane.entries.push({ key, note, host: hostOf(note.url) })
    ueOf(note.ue).waiting++
    total++
  }

  async function drop(lane: Lane, entry: Entry): Promise<void> {
    const at = lane.entries.indexOf(entry)
    if (at < 0) return
    lane.entries.splice(at, 1)
    total--
    const ue = ueOf(entry.note.ue)
    ue.waiting--
    if (ue.waiting === 0 && ue.busy === 0) byUe.delete(entry.note.ue)
    if (lane.entries.length === 0 && !lane.busy) lanes.delete(entry.note.lane)
    await records.delete(entry.key)
  }

  /** The oldest that is not on its way, of a lane, a device or all. */
  function oldest(which: (note: Note, name: string) => boolean): [Lane, Entry] | undefined {
    let found: [Lane, Entry] | undefined
    for (const [name, lane] of lanes) {
      const entry = lane.entries[lane.busy ? 1 : 0]
      if (entry && which(entry.note, name) && (!found || entry.key < found[1].key)) found = [lane, entry]
    }
    return found
  }

  async function makeRoom(note: Note): Promise<void> {
    const tooMany: [boolean, (note: Note, name: string) => boolean][] = [
      [(lanes.get(note.lane)?.entries.length ?? 0) > limits.perLane, (_, name) => name === note.lane],
      [ueOf(note.ue).waiting > limits.perUe, ({ ue }) => ue === note.ue],
      [total > limits.total, () => true],
    ]
    for (const [over, which] of tooMany) {
      const victim = over ? oldest(which) : undefined
      if (!victim) continue
      log.warn(
        { ue: victim[1].note.ue, lane: victim[1].note.lane },
        'too many notifications wait: the oldest goes',
      )
      await drop(...victim)
    }
  }

  async function deliver(name: string, lane: Lane, entry: Entry, host: string): Promise<void> {
    const { note } = entry
    try {
      const { status } = await send({
        method: 'POST',
        url: note.url,
        body: JSON.stringify(note.body),
        timeoutMs: limits.timeoutMs,
        maxAnswer: 0,
        allowLoopback: note.allowLoopback,
        signal: stop.signal,
      })
      if (status >= 200 && status < 300) {
        lane.failures = 0
        lane.dueAt = 0
        await drop(lane, entry)
      } else if (isFinal(status)) {
        log.warn({ ue: note.ue, lane: name, host, status }, 'a device refused a notification')
        await drop(lane, entry)
      } else throw new ShoalError('UPSTREAM_STATUS', `${host} answered ${status}`)
    } catch (error) {
      if (stop.signal.aborted) return
      const hopeless = isShoalError(error, 'USAGE', 'DENIED') || now() - note.createdAt > limits.maxAgeMs
      if (hopeless) {
        log.warn({ ue: note.ue, lane: name, host, err: error }, 'a notification could not be delivered')
        await drop(lane, entry)
        return
      }
      const delay = Math.min(limits.firstDelayMs * 2 ** lane.failures, limits.maxDelayMs)
      lane.failures++
      // Devices that were cut off together must not all be asked at the same moment.
      lane.dueAt = now() + delay * (0.5 + random() / 2)
      log.debug({ ue: note.ue, lane: name, host, failures: lane.failures, err: error }, 'it is tried again')
    }
  }

  function start(name: string, lane: Lane, entry: Entry, host: string): void {
    const ue = ueOf(entry.note.ue)
    lane.busy = true
    busy++
    ue.busy++
    byHost.set(host, (byHost.get(host) ?? 0) + 1)
    const work = deliver(name, lane, entry, host)
      .catch((error) => log.error({ err: error }, 'the outbox failed'))
      .finally(() => {
        running.delete(work)
        lane.busy = false
        busy--
        ue.busy--
        if (ue.waiting === 0 && ue.busy === 0) byUe.delete(entry.note.ue)
        const left = (byHost.get(host) ?? 1) - 1
        if (left > 0) byHost.set(host, left)
        else byHost.delete(host)
        if (lane.entries.length === 0) lanes.delete(name)
        pumpSoon()
      })
    running.add(work)
  }

  /** All lanes are looked at, so once for what comes at the same moment. */
  function pumpSoon(): void {
    clearTimeout(timer)
    timer = setTimeout(pump, 1)
  }

  function pump(): void {
    clearTimeout(timer)
    if (stop.signal.aborted) return
    let next = Number.POSITIVE_INFINITY
    for (const [name, lane] of lanes) {
      if (busy >= limits.atOnce) return
      const entry = lane.entries[0]
      if (lane.busy || !entry) continue
      if (lane.dueAt > now()) {
        next = Math.min(next, lane.dueAt)
        continue
      }
      const { host } = entry
      // Whoever waits for its turn is looked at again when one of those under way ends.
      if (ueOf(entry.note.ue).busy >= limits.atOncePerUe) continue
      if ((byHost.get(host) ?? 0) >= limits.atOncePerHost) continue
      start(name, lane, entry, host)
    }
    if (Number.isFinite(next)) timer = setTimeout(pump, Math.max(next - now(), 10))
  }

  for await (const [key, note] of records.entries()) {
    take(key, note)
    serial = Math.max(serial, Number(key) + 1)
  }
  pump()

  return {
    async add(added) {
      const note = { ...added, createdAt: now() }
      const key = String(serial++).padStart(16, '0')
      await records.put(key, note)
      if (stop.signal.aborted) return
      take(key, note)
      await makeRoom(note)
      pumpSoon()
    },
    async redirect(name, url, allowLoopback) {
      const lane = lanes.get(name)
      if (!lane) return
      lane.failures = 0
      lane.dueAt = 0
      for (const entry of lane.entries) {
        entry.note = { ...entry.note, url, allowLoopback }
        entry.host = hostOf(url)
        await records.put(entry.key, entry.note)
      }
      pumpSoon()
    },
    async forget(name) {
      const lane = lanes.get(name)
      for (const entry of [...(lane?.entries ?? [])]) if (lane) await drop(lane, entry)
    },
    size: () => total,
    async close() {
      clearTimeout(timer)
      stop.abort()
      await Promise.all(running)
    },
  }
}
