import type { PeerId } from '../types.ts'

/** What membership needs of the network below the RPC; `createLinks` is the real one, tests have a virtual one. */
export interface Links {
  connected(id: PeerId): boolean
  /**
   * A connection to the member at any of the addresses, to be found in `peer` or, without it, to whoever answers. An existing
   * one will do.
   *
   * @throws PEER_GONE when nobody answers or somebody else does, LOOP when the address is this node's own, ABORTED
   */
  connect(target: { peer?: PeerId; addrs: string[] }, signal: AbortSignal): Promise<PeerId>
  /** Keeps the addresses for later dials, by others as well, and the connections from being pruned. */
  remember(id: PeerId, addrs: string[]): void
  forget(id: PeerId): void
  /** Ends all connections to the peer at once. */
  drop(id: PeerId): void
  /** When the last byte came from the peer, by membership's clock; -Infinity for never. */
  heardAt(id: PeerId): number
  /** Called when the last connection to a peer has ended. Returns the unsubscriber. */
  onClose(listener: (id: PeerId) => void): () => void
}
