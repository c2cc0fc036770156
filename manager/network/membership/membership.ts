import { isShoalError, type Log } from '../../../base/index.ts'
import type { Member, Membership, PeerId, Rpc } from '../../types.ts'
import type { BootstrapSource } from '../bootstrap.ts'
import type { Links } from '../links.ts'
import { createHealer } from './healer.ts'
import { farNeighbours, nearNeighbours } from './neighbours.ts'
import { createProber, FAR, nearPace } from './prober.ts'
import { createRoster } from './roster.ts'
import { createTalk } from './talk.ts'
import { realTimers, type Timers, within } from './timers.ts'
import { createView, isLive } from './view.ts'

/** Things due together are done together. */
const MIN_TICK_MS = 20
const MAX_TICK_MS = 1000
/** A timer later than this means that the process was held up. */
const LATE_MS = 60
/** A dial into a cut link hangs; a new one starts the kernel's retries afresh. */
const CONNECT_MS = 3500
/** Asking a name server and an API takes a few round trips more. */
const BOOTSTRAP_MS = 8000
const CHORES_EVERY_MS = 10_000
const HOUR_MS = 3_600_000
const DEAD_FOR_MS = 24 * HOUR_MS
const LEFT_FOR_MS = HOUR_MS

export interface MembershipOptions {
  links: Links
  rpc: Rpc
  self: Pick<Member, 'id' | 'name' | 'site' | 'addrs' | 'registry' | 'api'>
  bootstrap?: BootstrapSource[]
  log: Log
  /** The node's dialable addresses now; asked every 10 s, as interfaces come and go. */
  addresses?: () => string[]
  /** Monotonic ms, the clock of `links.heardAt`. */
  now?: () => number
  /** ms since the epoch, for the first incarnation. */
  wallClock?: () => number
  timers?: Timers
  random?: () => number
}

export interface MembershipControl extends Membership {
  /** Changes what others are told about this node. */
  announce(change: Partial<Pick<Member, 'addrs' | 'registry' | 'api'>>): void
  /** Somebody may be at these addresses: tries them once unless the peer is a live member. */
  hint(addrs: string[], peer?: PeerId): void
  /** Says goodbye and stops; takes at most half a second. */
  leave(): Promise<void>
  /** Stops without a word; the others will find this node dead. */
  close(): void
}

/**
 * The table of members, kept by SWIM: neighbours watch each other, news travels on their messages, tables that differ
 * are compared, and what was lost is looked for without end. Starts at once.
 */
export function createMembership(options: MembershipOptions): MembershipControl {
  const { links, rpc, bootstrap = [], addresses, random = Math.random } = options
  const { now = () => performance.now(), wallClock = () => Date.now(), timers = realTimers() } = options
  const log = options.log.child({ part: 'members' })
  const listeners = new Set<() => void>()
  const changedAt = new Map<PeerId, number>()
  const stop = new AbortController()
  let notifying = false
  let spreading = false
  let ticking: unknown
  let dueAt = now()
  let choresAt = now() + CHORES_EVERY_MS
  let near: Member[] = []
  let far: Member[] = []
  let neighboursOf = -1
  let pace = nearPace(0)
  let alone = false

  const roster = createRoster({
    self: { ...options.self, state: 'alive', incarnation: Math.floor(wallClock()) },
    doomed: (id) => prober.doomed(id, now()),
    onUpdate: (member, previous) => onUpdate(member, previous),
  })
  const talk = createTalk({ rpc, links, roster, timers, log, now, random })
  const view = createView({ roster, log })
  const healer = createHealer({ random, clock: now, log })
  const prober = createProber({
    paceOf: (id) => (roster.get(id)?.site === roster.self.site ? pace : FAR),
    heardAt: (id) => links.heardAt(id),
    ping: (id) =>
      talk.ping(id).then(
        () => 'answered',
        (error) => (isShoalError(error, 'PEER_GONE') ? 'refused' : 'unclear'),
      ),
    askOthers: (id) => talk.askOthers(id),
    onSilent: (id) => onSilent(id),
    onDead: (id) => roster.declare(id, 'dead'),
    clock: now,
    random,
  })

  const refreshNeighbours = (): void => {
    if (neighboursOf === roster.version) return
    neighboursOf = roster.version
    const live = [...roster.others()].filter(isLive)
    const { id, site } = roster.self
    const siteMates = live.filter((member) => member.site === site)
    const others = live.filter((member) => member.site !== site)
    near = nearNeighbours(id, siteMates)
    pace = nearPace(near.length)
    far = farNeighbours(id, others)
  }

  const onSilent = (id: PeerId): void => {
    const member = roster.get(id)
    if (member?.state !== 'alive') return
    roster.declare(id, 'suspect')
    refreshNeighbours()
    // All neighbours at once: it is this node that is cut off, and from everybody.
    if (near.some((neighbour) => neighbour.state === 'alive')) return
    alone = true
    for (const other of [...roster.others()]) {
      if (other.site === roster.self.site && other.state === 'alive') roster.declare(other.id, 'suspect')
    }
    alone = false
  }

  const onUpdate = (member: Member, previous: Member | undefined): void => {
    if (member.id !== roster.self.id) {
      follow(member, previous)
      if (member.state !== previous?.state) {
        changedAt.set(member.id, now())
        const fields = { peer: member.id, name: member.name, site: member.site, was: previous?.state }
        if (member.state === 'suspect' || previous?.state === 'suspect')
          log.debug(fields, `member ${member.state}`)
        else log.info(fields, `member ${member.state}`)
      }
    }
    spreadSoon()
    notifySoon()
    hasten()
  }

  const follow = (member: Member, previous: Member | undefined): void => {
    const { id, addrs, state } = member
    if (state === 'suspect')
      prober.suspect(id, now(), !alone && !near.some((neighbour) => neighbour.id === id))
    else prober.clear(id)
    if (isLive(member)) {
      healer.forget(id)
      if (previous === undefined || !isLive(previous) || previous.addrs.join() !== addrs.join()) {
        links.remember(id, addrs)
      }
    } else if (state === 'dead' && previous?.state !== 'dead') {
      // Connections from before a cut only delay those after it.
      links.drop(id)
      healer.follow(id, { attempt: (signal) => revive(id, signal), afterMs: 500 + 500 * random() })
    } else if (state === 'left') healer.forget(id)
  }

  const revive = async (id: PeerId, signal: AbortSignal): Promise<boolean> => {
    const addrs = roster.get(id)?.addrs ?? []
    await within(timers, CONNECT_MS, signal, (limit) => links.connect({ peer: id, addrs }, limit))
    await talk.sync(id, signal)
    return true
  }

  for (const source of bootstrap) {
    const found = new Set<PeerId>()
    healer.follow(`bootstrap ${source.name}`, {
      attempt: async (signal) => {
        const contacts = await within(timers, BOOTSTRAP_MS, signal, (limit) => source.contact(links, limit))
        const syncs = await Promise.allSettled(
          contacts.map((id) => talk.sync(id, signal).then(() => found.add(id))),
        )
        for (const sync of syncs)
          if (sync.status === 'rejected') log.debug({ err: sync.reason }, 'members not compared')
        return syncs.some((sync) => sync.status === 'fulfilled')
      },
      idle: () => [...found].some((id) => roster.get(id)?.state === 'alive'),
    })
  }

  const spreadSoon = (): void => {
    if (spreading) return
    spreading = true
    // A little later, so that what comes together is told together.
    timers.setTimeout(() => {
      spreading = false
      if (stop.signal.aborted) return
      refreshNeighbours()
      talk.spread([...near, ...far])
    }, 10)
  }

  const notifySoon = (): void => {
    if (notifying) return
    notifying = true
    queueMicrotask(() => {
      notifying = false
      for (const listener of [...listeners]) {
        try {
          listener()
        } catch (error) {
          log.error({ err: error }, 'a listener to the members failed')
        }
      }
    })
  }

  const doChores = (time: number): void => {
    choresAt = time + CHORES_EVERY_MS
    const addrs = addresses?.()
    if (addrs !== undefined && addrs.join() !== roster.self.addrs.join()) roster.announce({ addrs })
    for (const member of [...roster.others()]) {
      const age = time - (changedAt.get(member.id) ?? time)
      const limit = member.state === 'dead' ? DEAD_FOR_MS : LEFT_FOR_MS
      if (isLive(member) || age < limit) continue
      roster.remove(member.id)
      changedAt.delete(member.id)
      healer.forget(member.id)
      links.forget(member.id)
      notifySoon()
    }
  }

  const tick = (): void => {
    if (stop.signal.aborted) return
    const time = now()
    const late = time - dueAt
    refreshNeighbours()
    const watched = [...near, ...far].map((member) => member.id)
    prober.tick(time, late > LATE_MS ? late : 0, watched)
    healer.tick(time)
    if (time >= choresAt) doChores(time)
    schedule()
  }

  const schedule = (): void => {
    const time = now()
    // New neighbours are not watched before the next tick.
    const changed = neighboursOf !== roster.version
    const wait = changed ? 0 : Math.min(prober.nextDue(), healer.nextDue(), choresAt) - time
    scheduleIn(Math.min(MAX_TICK_MS, Math.max(MIN_TICK_MS, wait)))
  }

  const scheduleIn = (ms: number): void => {
    dueAt = now() + ms
    ticking = timers.setTimeout(tick, ms)
  }

  /** Something changed: what is due may be due earlier. */
  const hasten = (): void => {
    if (stop.signal.aborted || dueAt - now() <= MIN_TICK_MS) return
    timers.clearTimeout(ticking)
    scheduleIn(MIN_TICK_MS)
  }

  const doubt = (id: PeerId): void => {
    const member = roster.get(id)
    if (stop.signal.aborted || id === roster.self.id || member === undefined || !isLive(member)) return
    prober.doubt(id, now())
    hasten()
  }

  const unsubscribe = links.onClose(doubt)

  const halt = (): void => {
    if (stop.signal.aborted) return
    stop.abort()
    timers.clearTimeout(ticking)
    unsubscribe()
    healer.close()
    talk.close()
  }

  healer.tick(now())
  schedule()

  return {
    get self() {
      return view.self()
    },
    settled: healer.settled,
    list: () => view.list(),
    site: () => view.site(),
    find: (nameOrId) => view.find(nameOrId),
    onChange(listener) {
      listeners.add(listener)
      return () => void listeners.delete(listener)
    },
    doubt,
    announce: (change) => roster.announce(change),
    hint(addrs, peer) {
      if (peer === roster.self.id || (peer !== undefined && roster.get(peer)?.state === 'alive')) return
      const target = { addrs, ...(peer === undefined ? {} : { peer }) }
      within(timers, CONNECT_MS, stop.signal, (limit) => links.connect(target, limit))
        .then((id) => talk.sync(id))
        .catch((error) => log.debug({ addrs, err: error }, 'a hint led nowhere'))
    },
    async leave() {
      if (stop.signal.aborted) return
      timers.clearTimeout(ticking)
      refreshNeighbours()
      roster.leave()
      await talk.goodbye([...near, ...far])
      halt()
    },
    close: halt,
  }
}
