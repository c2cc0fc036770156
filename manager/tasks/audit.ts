/**
 * What happens when all blocks match their cuts but the blob does not match its digest: somebody signed a wrong cut, or
 * upstream itself sent other bytes. One node of the site, chosen by the coordinator, reads the blob from upstream once
 * more and compares; the others wait for its verdict, drop what it names, and check for themselves again.
 */
import { type Digest, hasherFor, type Log } from '../../base/index.ts'
import { BLOCK_SIZE, cidOf } from '../../blockstore/index.ts'
import type { Cut, PeerId } from '../../scheduler/index.ts'
import type { Membership, Origin, Rpc } from '../types.ts'
import type { Blocks } from './blocks.ts'
import type { Coordinator } from './coordinator.ts'
import { eachBlock } from './cutting.ts'
import { digestField, fields, list, text } from './messages.ts'

const VERDICT_MS = 60_000
/** An auditor that was not heard of for so long has lost its turn. */
const SILENCE_MS = 10_000
const POLL_MS = 300
/** After an auditor was misled, others who can look get so long to take a turn. */
const OTHERS_MS = 1500
/** So many nodes that upstream misled alike are enough to lay it at upstream's door. */
const WITNESSES = 2

interface Verdict {
  bad: { index: number; cid: string }[]
  /** Who signed the bad cuts; nothing that they seeded is trusted. */
  seeders: PeerId[]
  /** Upstream sent bytes of another digest again. */
  wrong: boolean
}

type Reply = { turn: true } | { verdict: Verdict; serial: number } | { wait: true }

interface Say {
  able: boolean
  /** The last verdict that the asker acted on, 0 if none: only a newer one is of use to it. */
  seen: number
  verdict?: Verdict
  working?: boolean
}

/** The coordinator's side: gives the turn to one, keeps the verdict for the rest. */
export interface AuditDesk {
  ask(peer: PeerId, digest: Digest, say: Say): Reply
}

interface File {
  auditor: PeerId | undefined
  heardAt: number
  verdict: Verdict | undefined
  serial: number
  /** Nodes to which upstream sent bytes of another digest: the fault may be on their path only. */
  misled: Set<PeerId>
}

export function createAuditDesk(deps: {
  members: Membership
  rpc: Rpc
  coordinator: Coordinator
  log: Log
}): AuditDesk {
  const { members, rpc, coordinator, log } = deps
  const files = new Map<Digest, File>()

  function fileOf(digest: Digest, now: number): File {
    for (const [key, file] of files) if (now - file.heardAt > VERDICT_MS) files.delete(key)
    const found = files.get(digest)
    if (found) return found
    const file: File = { auditor: undefined, heardAt: now, verdict: undefined, serial: 0, misled: new Set() }
    files.set(digest, file)
    return file
  }

  function decide(digest: Digest, file: File, peer: PeerId, verdict: Verdict): void {
    log.warn({ digest, auditor: peer, bad: verdict.bad.length, wrong: verdict.wrong }, 'audit of a blob')
    file.auditor = undefined
    if (verdict.wrong) {
      file.misled.add(peer)
    } else {
      file.verdict = verdict
      file.serial++
      coordinator.reject(digest, verdict.bad, true)
    }
  }

  const desk: AuditDesk = {
    ask(peer, digest, say) {
      const now = Date.now()
      const file = fileOf(digest, now)
      const silence = now - file.heardAt
      if (say.verdict) {
        file.heardAt = now
        decide(digest, file, peer, say.verdict)
        return { wait: true }
      }
      if (file.verdict && file.serial > say.seen) return { verdict: file.verdict, serial: file.serial }
      const present = members.site().some((member) => member.id === file.auditor)
      if (file.auditor === peer) {
        file.heardAt = now
        return say.working ? { wait: true } : { turn: true }
      }
      if (file.auditor !== undefined && present && silence < SILENCE_MS) return { wait: true }
      const enough = file.misled.size >= WITNESSES
      if (say.able && !enough && !file.misled.has(peer)) {
        file.auditor = peer
        file.heardAt = now
        return { turn: true }
      }
      // Enough, or everybody who could look, were misled alike: upstream itself is wrong.
      if (enough || (file.misled.size > 0 && silence > OTHERS_MS)) {
        return { verdict: { bad: [], seeders: [], wrong: true }, serial: file.serial + 1 }
      }
      return { wait: true }
    },
  }

  rpc.handle('audit', async (peer, body) => {
    const f = fields(body)
    const verdict = f.verdict === undefined ? {} : { verdict: readVerdict(f.verdict) }
    const say = { able: f.able === true, working: f.working === true, seen: Number(f.seen) || 0, ...verdict }
    return desk.ask(peer, digestField(f.digest), say)
  })
  return desk
}

function readVerdict(value: unknown): Verdict {
  const f = fields(value)
  return {
    wrong: f.wrong === true,
    seeders: list(f.seeders, 'seeders', 4096).map((peer) => text(peer, 'seeder', 128)),
    bad: list(f.bad, 'bad blocks', 65_536).map((item) => {
      const b = fields(item)
      return { index: Number(b.index), cid: text(b.cid, 'cid', 80) }
    }),
  }
}

function readReply(value: unknown): Reply {
  const f = fields(value)
  if (f.verdict !== undefined) return { verdict: readVerdict(f.verdict), serial: Number(f.serial) || 0 }
  return f.turn === true ? { turn: true } : { wait: true }
}

/**
 * Finds what is wrong with a blob whose digest does not match. Resolves to the indexes that were dropped and are to be fetched again;
 * undefined when upstream itself is wrong and nothing can be done.
 */
export async function settleMismatch(deps: {
  blocks: Blocks
  desk: AuditDesk
  rpc: Rpc
  self: PeerId
  coordinator: () => PeerId
  origin: () => Origin | undefined
  /** Kept by the caller over its audits of one blob. */
  seen: { serial: number }
  log: Log
  signal: AbortSignal
}): Promise<number[] | undefined> {
  const { blocks, desk, rpc, self, origin, seen, log, signal } = deps
  const { digest } = blocks

  async function ask(what: Omit<Say, 'seen'>): Promise<Reply> {
    const peer = deps.coordinator()
    const say = { ...what, seen: seen.serial }
    if (peer === self) return desk.ask(self, digest, say)
    try {
      return readReply(await rpc.request(peer, 'audit', { digest, ...say }, { timeoutMs: 2000, signal }))
    } catch (error) {
      log.debug({ peer, error: String(error) }, 'audit desk did not answer')
      return { wait: true }
    }
  }

  const deadline = Date.now() + 5 * VERDICT_MS
  while (Date.now() < deadline) {
    signal.throwIfAborted()
    const from = origin()
    const reply = await ask({ able: from !== undefined })
    if ('verdict' in reply) {
      if (reply.verdict.wrong) return undefined
      const { bad, seeders } = reply.verdict
      seen.serial = reply.serial
      const mine = blocks
        .cuts()
        .filter((cut) => seeders.includes(cut.seeder) || bad.some(({ cid }) => cid === cut.cid))
        .map((cut) => cut.index)
      for (const index of mine) await blocks.reject(index)
      return mine
    }
    if ('turn' in reply && from) {
      const working = setInterval(() => void ask({ able: true, working: true }), SILENCE_MS / 3)
      try {
        await ask({ able: true, verdict: await compare(blocks, from, signal) })
      } catch (error) {
        log.warn({ error: String(error) }, 'reading upstream for an audit failed')
      } finally {
        clearInterval(working)
      }
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS))
  }
  return undefined
}

/** Reads the whole blob from upstream and names the cuts that differ; `wrong` when these bytes have another digest too. */
async function compare(blocks: Blocks, origin: Origin, signal: AbortSignal): Promise<Verdict> {
  const answer = await origin.fetch({ start: 0, end: undefined }, signal)
  const bad: Cut[] = []
  const hash = hasherFor(blocks.digest)
  await eachBlock(answer.body, Buffer.allocUnsafeSlow(BLOCK_SIZE), 0, async (index, bytes) => {
    hash.update(bytes)
    const cut = blocks.cut(index)
    if (cut && cidOf(bytes) !== cut.cid) bad.push(cut)
  })
  if (`${blocks.digest.split(':')[0]}:${hash.digest('hex')}` !== blocks.digest) {
    return { bad: [], seeders: [], wrong: true }
  }
  const seeders = [...new Set(bad.map((cut) => cut.seeder))]
  return { bad: bad.map(({ index, cid }) => ({ index, cid })), seeders, wrong: false }
}
