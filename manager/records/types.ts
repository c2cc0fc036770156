import type { PeerId } from '../../scheduler/types.ts'

/**
 * When a record was written, by a hybrid logical clock: S. Kulkarni et al., "Logical Physical Clocks", OPODIS 2014. Orders all
 * writes of a cluster: `ms`, then `count`, then `node`. A stamp over 10 min ahead of a node's time is refused there.
 */
export interface Stamp {
  /** ms since the epoch, of the writer or of the latest write it had seen. */
  ms: number
  count: number
  node: PeerId
}

/** A JSON value that all nodes of the cluster have, the last writer's. */
export interface SharedRecord {
  key: string
  /** Undefined: deleted. */
  value: unknown
  stamp: Stamp
  /**
   * Writes at the same time, which did not know of this one and which it beat; the latest first, 8 at most. They go with the
   * next write by a node that knows of them.
   */
  beaten: { value: unknown; stamp: Stamp }[]
}

/**
 * A small table that every node of the cluster has whole and on disk: tags, manifests of the local repository, images to
 * keep. A write spreads at once; nodes that were away are brought up to date when they come back (both sides of a partition
 * get the other's writes, and the higher stamp wins on each).
 */
export interface SharedRecords {
  /**
   * Writes the value (undefined deletes it) and resolves when `copies` nodes of any site have it on disk, this one included,
   * or all where the cluster has fewer. The cluster is who was met, is away or not, and did not say goodbye; a node that
   * was not met for 30 days is gone. So the smaller side of a partition refuses what it cannot keep as often as was asked.
   * On disk: given to the system, which survives the process's death, not the machine's.
   * @param key 1 to 1024 bytes
   * @param value at most 256 KiB as JSON
   * @throws NO_QUORUM at once, and nothing is written, where too few nodes are there; after 5 s when too few confirmed:
   *   the write stands here then, and spreads later all the same
   * @throws NAME_INVALID for a bad key | USAGE for too long a value | STORE_FULL (50,000 records, 128 MiB) | ABORTED
   */
  put(
    key: string,
    value: unknown,
    options: { copies: number; signal?: AbortSignal | undefined },
  ): Promise<Stamp>
  /** Undefined where nothing was written under the key; a deleted one has no value, and is forgotten after 30 days. */
  get(key: string): Promise<SharedRecord | undefined>
  /** Those that have a value, by key. */
  entries(prefix: string): AsyncIterable<SharedRecord>
  /** Called after a write, of this node or of another, took effect here. Returns the unsubscriber. */
  onChange(prefix: string, listener: (record: SharedRecord) => void): () => void
  /** What time it is in the cluster, ms since the epoch: the median of this node's clock and its peers'. */
  time(): number
  close(): Promise<void>
}
