import type { PeerId } from '../../types.ts'

/** How patient to be with a member; all ms. */
export interface Pace {
  /** Without a sign of life for so long it is pinged. */
  silenceMs: number
  /** For its own answer. */
  directMs: number
  /** Then for others to reach it. */
  indirectMs: number
  /** Then for it to refute the suspicion. */
  suspicionMs: number
  /** It is pinged at least so often whatever else is heard of it, as pings carry news. */
  newsMs: number
  /** Instead of `silenceMs`, for a while after another's probe went unanswered. */
  hurryMs: number
}

/**
 * In one LAN. Who is cut off or killed is dead to all within 3 s of its last sign of life: silence, direct, indirect and
 * suspicion add up to 2.2 s beside the timers' slack. A member that merely hangs for a second has 0.6 s left to answer.
 */
const NEAR: Pace = {
  silenceMs: 600,
  directMs: 350,
  indirectMs: 350,
  suspicionMs: 900,
  newsMs: 5000,
  hurryMs: 250,
}

/**
 * The more watch a member, the more seldom each of them needs to: what counts is when the first of them notices, as the
 * others believe it. Keeps the cost of idling nearly the same in sites of all sizes.
 */
export function nearPace(neighbours: number): Pace {
  return { ...NEAR, silenceMs: Math.min(NEAR.silenceMs + 250 * Math.max(0, neighbours - 1), 2000) }
}

/** Between sites: links are thin, and nothing urgent depends on it. */
export const FAR: Pace = {
  silenceMs: 10_000,
  directMs: 2500,
  indirectMs: 3000,
  suspicionMs: 8000,
  newsMs: Number.POSITIVE_INFINITY,
  hurryMs: Number.POSITIVE_INFINITY,
}

/** After a probe went unanswered, everybody else is probed sooner for so long: it may be this node that is cut off. */
const HURRY_FOR_MS = 800
/** While suspect, a member is pinged this often, so that it hears of it. */
const AGAIN_MS = 300
/** The least time left for answers that wait unread after this process itself was held up. */
const GRACE_MS = 150

interface Probe {
  startedAt: number
  deadline: number
  phase: 'direct' | 'indirect'
  /** The member's own machine said no, which no busy process does. */
  refused: boolean
  denied: boolean
}

interface Watch {
  since: number
  pingedAt: number
  /** Share of the silence to wait for: neighbours watch each other, and unequal patience lets one ping serve both. */
  patience: number
}

export interface Prober {
  /**
   * Does what is due. `lateMs` says by how much this process was held up: nothing could be heard in that time, so nobody
   * is blamed for it.
   */
  tick(now: number, lateMs: number, watched: Iterable<PeerId>): void
  /** Probes the member now, unless it is being probed. */
  doubt(id: PeerId, now: number): void
  /**
   * Starts the time in which the member must refute. Who does not watch it (`hearsay`) leaves the verdict to those who
   * do, unless they are gone as well.
   */
  suspect(id: PeerId, now: number, hearsay: boolean): void
  /** True when the member had its chance to refute a suspicion, and nothing was heard of it. */
  doomed(id: PeerId, now: number): boolean
  /** Ends probe and suspicion: it is alive, or it is gone. */
  clear(id: PeerId): void
  /** When the next tick has something to do, as far as can be told now. */
  nextDue(): number
}

/**
 * SWIM's failure detector (Das, Gupta, Motivala 2002): silence, a ping, pings through others, suspicion, death. Any
 * sign of life ends a probe. Time is given from outside.
 */
export function createProber(options: {
  paceOf(id: PeerId): Pace
  /** When anything last came from the member; -Infinity for never. */
  heardAt(id: PeerId): number
  /** Never rejects. `refused`: it certainly cannot be reached just now; `unclear`: no answer, for whatever reason. */
  ping(id: PeerId): Promise<'answered' | 'refused' | 'unclear'>
  /** Asks others to reach it: true as soon as one did, false when none did. */
  askOthers(id: PeerId): Promise<boolean>
  onSilent(id: PeerId): void
  onDead(id: PeerId): void
  clock(): number
  random(): number
}): Prober {
  const { paceOf, heardAt, ping, askOthers, onSilent, onDead, clock, random } = options
  const probes = new Map<PeerId, Probe>()
  const suspicions = new Map<PeerId, { since: number; heardBy: number; deadline: number }>()
  const watches = new Map<PeerId, Watch>()
  let hurryUntil = Number.NEGATIVE_INFINITY

  /** Drawn anew for each ping, so that pings do not come in bursts, which would leave gaps between them. */
  const patience = (): number => 0.6 + 0.5 * random()

  const start = (id: PeerId, now: number): void => {
    if (probes.has(id)) return
    const probe: Probe = {
      startedAt: now,
      deadline: now + paceOf(id).directMs,
      phase: 'direct',
      refused: false,
      denied: false,
    }
    probes.set(id, probe)
    const watch = watches.get(id)
    if (watch !== undefined) {
      watch.pingedAt = now
      watch.patience = patience()
    }
    ping(id).then((outcome) => {
      if (outcome === 'answered') end(id, probe)
      else if (outcome === 'refused' && probes.get(id) === probe) {
        probe.refused = true
        if (probe.phase === 'direct') turnToOthers(id, probe)
        else settle(id, probe)
      }
    })
  }

  const end = (id: PeerId, probe: Probe): void => {
    if (probes.get(id) === probe) probes.delete(id)
  }

  const turnToOthers = (id: PeerId, probe: Probe): void => {
    probe.phase = 'indirect'
    probe.deadline = clock() + paceOf(id).indirectMs
    askOthers(id).then(
      (reached) => {
        if (reached) end(id, probe)
        else {
          probe.denied = true
          settle(id, probe)
        }
      },
      () => {},
    )
  }

  /** Refused by itself and out of reach for others: nothing to wait for. */
  const settle = (id: PeerId, probe: Probe): void => {
    if (probes.get(id) === probe && probe.refused && probe.denied) fail(id, probe)
  }

  const fail = (id: PeerId, probe: Probe): void => {
    end(id, probe)
    if (heardAt(id) <= probe.startedAt) onSilent(id)
  }

  /** Nobody was heard for as long as a probe takes: those who are silent themselves cannot reach others for this node. */
  const cutOff = (now: number, { directMs, indirectMs }: Pace): boolean =>
    watches.size > 1 && [...watches.keys()].every((id) => now - heardAt(id) >= directMs + indirectMs)

  const judgeProbes = (now: number): void => {
    for (const [id, probe] of probes) {
      if (heardAt(id) > probe.startedAt) probes.delete(id)
      else if (now >= probe.deadline) {
        hurryUntil = now + HURRY_FOR_MS
        if (probe.phase === 'indirect' || cutOff(now, paceOf(id))) fail(id, probe)
        else turnToOthers(id, probe)
      }
    }
  }

  const judgeSuspects = (now: number): void => {
    for (const [id, suspicion] of suspicions) {
      const heard = heardAt(id)
      if (heard > suspicion.heardBy) {
        // It lives; its refutation is on its way, or the pings below will fetch it.
        suspicion.heardBy = heard
        suspicion.deadline = Math.max(suspicion.deadline, now + paceOf(id).suspicionMs)
      } else if (now >= suspicion.deadline) {
        suspicions.delete(id)
        onDead(id)
      }
    }
  }

  /** When it is to be pinged, if nothing is heard of it until then. */
  const dueAt = (id: PeerId, entry: Watch, now: number): number => {
    const { silenceMs, newsMs, hurryMs } = paceOf(id)
    const heard = Math.max(heardAt(id), entry.since)
    const due = Math.min(heard + silenceMs * entry.patience, entry.pingedAt + newsMs)
    if (suspicions.has(id)) return entry.pingedAt + AGAIN_MS
    return now < hurryUntil ? Math.min(due, heard + hurryMs) : due
  }

  const watch = (id: PeerId, now: number): void => {
    let entry = watches.get(id)
    if (entry === undefined) {
      entry = { since: now - random() * paceOf(id).silenceMs, pingedAt: now, patience: patience() }
      watches.set(id, entry)
    }
    if (probes.has(id)) return
    if (now >= dueAt(id, entry, now)) start(id, now)
  }

  return {
    tick(now, lateMs, watched) {
      if (lateMs > 0) {
        for (const entry of [...probes.values(), ...suspicions.values()]) {
          entry.deadline = Math.max(entry.deadline + lateMs, now + GRACE_MS)
        }
      }
      judgeProbes(now)
      judgeSuspects(now)
      const current = new Set<PeerId>()
      for (const id of watched) {
        current.add(id)
        watch(id, now)
      }
      for (const id of watches.keys()) if (!current.has(id)) watches.delete(id)
    },
    doubt: start,
    suspect(id, now, hearsay) {
      const patience = paceOf(id).suspicionMs * (hearsay ? 2.5 : 1)
      suspicions.set(id, { since: now, heardBy: heardAt(id), deadline: now + patience })
    },
    doomed(id, now) {
      const suspicion = suspicions.get(id)
      if (suspicion === undefined || heardAt(id) > suspicion.heardBy) return false
      return now - suspicion.since >= paceOf(id).suspicionMs / 2
    },
    clear(id) {
      probes.delete(id)
      suspicions.delete(id)
    },
    nextDue() {
      let due = Number.POSITIVE_INFINITY
      for (const { deadline } of probes.values()) due = Math.min(due, deadline)
      for (const { deadline } of suspicions.values()) due = Math.min(due, deadline)
      for (const [id, entry] of watches) if (!probes.has(id)) due = Math.min(due, dueAt(id, entry, clock()))
      return due
    },
  }
}
