import { type Log, ShoalError } from '../../../base/index.ts'
import type { Member, PeerId, Rpc } from '../../types.ts'
import type { Links } from '../links.ts'
import type { Reply } from './messages.ts'
import { decodeReply, decodeRequest, encodeReply, encodeRequest, METHOD, type Request } from './messages.ts'
import type { Roster } from './roster.ts'
import { type Timers, within } from './timers.ts'

/** Records on a ping: a few hundred bytes each. */
const NEWS = 6
const PROXIES = 3
/** A late answer is still a sign of life. */
const PING_MS = 3000
/** Heard so lately, a member needs no ping to be called reachable. */
const FRESH_MS = 300
const SYNC_MS = 5000
const GOODBYE_MS = 500
/** Tables that differ are exchanged at most so often. */
const SYNC_EVERY_MS = 1000
const SYNC_FAR_EVERY_MS = 10_000

/** The conversations of membership, over the RPC. All reject when the other does not answer. */
export interface Talk {
  ping(id: PeerId): Promise<void>
  askOthers(id: PeerId): Promise<boolean>
  /** Makes both tables equal. */
  sync(id: PeerId, signal?: AbortSignal): Promise<void>
  /** Tells the peers what is new since the last call; one way. */
  spread(peers: readonly Member[]): void
  /** Tells the peers that this node has left; resolves when they know or half a second later. */
  goodbye(peers: readonly Member[]): Promise<void>
  close(): void
}

export function createTalk(options: {
  rpc: Rpc
  links: Links
  roster: Roster
  timers: Timers
  log: Log
  now(): number
  random(): number
}): Talk {
  const { rpc, links, roster, timers, log, now, random } = options
  const stop = new AbortController()
  const differing = new Map<PeerId, number>()
  const syncing = new Map<PeerId, Promise<void>>()
  let nextSyncAt = Number.NEGATIVE_INFINITY

  const ask = async (
    peer: PeerId,
    request: Request,
    timeoutMs: number,
    signal = stop.signal,
  ): Promise<Reply> => {
    const body = encodeRequest(request)
    return decodeReply(await rpc.request(peer, METHOD, body, { signal, timeoutMs }))
  }

  const reachable = async (id: PeerId): Promise<void> => {
    if (links.connected(id)) return
    const addrs = roster.get(id)?.addrs
    if (addrs === undefined) throw new ShoalError('PEER_GONE', 'an unknown member')
    await within(timers, PING_MS, stop.signal, (limit) => links.connect({ peer: id, addrs }, limit))
  }

  const ping = async (id: PeerId): Promise<void> => {
    await reachable(id)
    const news = roster.newsFor(id, NEWS)
    const reply = await ask(id, { kind: 'ping', digest: roster.digest(), news }, PING_MS)
    roster.accept(reply.news, id)
    if (reply.digest !== undefined) compareDigest(id, reply.digest, news.length + reply.news.length === 0)
  }

  /** News under way explains a difference; one that stays, or comes without news, does not go away by itself. */
  const compareDigest = (id: PeerId, digest: string, quiet: boolean): void => {
    if (digest === roster.digest()) {
      differing.delete(id)
      return
    }
    const times = (differing.get(id) ?? 0) + 1
    differing.set(id, times)
    if (times < (quiet ? 2 : 4) || now() < nextSyncAt) return
    const every = roster.get(id)?.site === roster.self.site ? SYNC_EVERY_MS : SYNC_FAR_EVERY_MS
    nextSyncAt = now() + every * (0.75 + 0.5 * random())
    differing.delete(id)
    sync(id).catch((error) => log.debug({ peer: id, err: error }, 'members not compared'))
  }

  const sync = (id: PeerId, signal?: AbortSignal): Promise<void> => {
    const running = syncing.get(id)
    if (running !== undefined) return running
    const run = syncOnce(id, signal).finally(() => syncing.delete(id))
    syncing.set(id, run)
    return run
  }

  const syncOnce = async (id: PeerId, outer?: AbortSignal): Promise<void> => {
    const signal = outer === undefined ? stop.signal : AbortSignal.any([stop.signal, outer])
    const reply = await ask(
      id,
      { kind: 'sync', stamps: roster.stamps(), news: [roster.self] },
      SYNC_MS,
      signal,
    )
    roster.accept(reply.news, id)
    const news = (reply.wanted ?? [])
      .map((wanted) => roster.get(wanted))
      .filter((member) => member !== undefined)
    if (news.length > 0) await ask(id, { kind: 'news', news }, SYNC_MS, signal)
  }

  const askOthers = async (id: PeerId): Promise<boolean> => {
    const proxies = chooseProxies(id)
    if (proxies.length === 0) return false
    const answers = proxies.map(async (proxy) => {
      const news = roster.newsFor(proxy, NEWS)
      const reply = await ask(proxy, { kind: 'reach', peer: id, news }, PING_MS)
      roster.accept(reply.news, proxy)
      // Promise.any wants a rejection for a no.
      if (reply.reached !== true) throw new ShoalError('PEER_GONE', 'not reached')
    })
    return await Promise.any(answers).then(
      () => true,
      () => false,
    )
  }

  const chooseProxies = (id: PeerId): PeerId[] => {
    const site = roster.get(id)?.site
    const able = [...roster.others()].filter((other) => other.state === 'alive' && other.id !== id)
    const near = able.filter((other) => other.site === site || other.site === roster.self.site)
    // Those at hand first: a new connection would cost most of the time there is.
    const ranked = near.map((other) => ({ id: other.id, by: (links.connected(other.id) ? 0 : 1) + random() }))
    return ranked
      .sort((a, b) => a.by - b.by)
      .slice(0, PROXIES)
      .map((other) => other.id)
  }

  const reach = async (id: PeerId): Promise<boolean> => {
    if (links.connected(id) && now() - links.heardAt(id) < FRESH_MS) return true
    return await ping(id).then(
      () => true,
      () => false,
    )
  }

  const answer = async (peer: PeerId, request: Request): Promise<Reply> => {
    roster.accept(request.news, peer)
    switch (request.kind) {
      case 'ping':
        return { news: roster.newsFor(peer, NEWS), digest: roster.digest() }
      case 'reach':
        return { reached: await reach(request.peer), news: roster.newsFor(peer, NEWS) }
      case 'sync': {
        const { newer, wanted } = roster.compare(request.stamps, peer)
        return { news: newer, wanted }
      }
      case 'news':
        return { news: [] }
    }
  }

  rpc.handle(METHOD, async (peer, body) => {
    if (stop.signal.aborted) throw new ShoalError('PEER_GONE', 'this node has left')
    const reply = await answer(peer, decodeRequest(body))
    // After this node's restart, or before its first exchange with the cluster.
    if (roster.get(peer) === undefined) {
      sync(peer).catch((error) => log.debug({ peer, err: error }, 'members not compared'))
    }
    return encodeReply(reply)
  })

  return {
    ping,
    askOthers,
    sync,
    spread(peers) {
      const fresh = roster.freshNews()
      if (fresh.length === 0) return
      for (const { id } of peers) {
        // The first ping will connect to it and bring the news; a second dial beside it would leave two connections.
        if (!links.connected(id)) continue
        const news = fresh
          .filter(({ from, member }) => from !== id && member.id !== id)
          .map(({ member }) => member)
        if (news.length > 0) rpc.notify(id, METHOD, encodeRequest({ kind: 'news', news }))
      }
    },
    async goodbye(peers) {
      const telling = peers.map(({ id }) => ask(id, { kind: 'news', news: [roster.self] }, GOODBYE_MS))
      await Promise.allSettled(telling)
    },
    close: () => stop.abort(),
  }
}
