import type { PeerId } from '../../scheduler/types.ts'

/**
 * When a record was written, by a hybrid logical clock: S. Kulkarni et al., "Logical Physical Clocks", OPODIS 2014. Orders all
 * writes of a cluster: `ms`, then `count`, then `node`.
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
  /** Writes at the same time, which did not know of this one and which it beat; the latest first, a few at most. */
  beaten: { value: unknown; stamp: Stamp }[]
}

/**
 * A small table that every node of the cluster has whole and on disk: tags, manifests of the local repository, images to
 * keep. A write spreads at once; nodes that were away are brought up to date when they come back (both sides of a partition
 * get the other's writes, and the higher stamp wins on each).
 */
export interface SharedRecords {
  /**
   * Writes the value (undefined deletes it) and resolves when `copies` nodes have it on disk, this one included.
   * @throws NO_QUORUM when that many did not confirm in time: the write stands here, and spreads later all the same
   */
  put(
    key: string,
    value: unknown,
    options: { copies: number; signal?: AbortSignal | undefined },
  ): Promise<Stamp>
  /** Undefined where nothing was written under the key; a deleted one has no value. */
  get(key: string): Promise<SharedRecord | undefined>
  /** Those that have a value, by key. */
  entries(prefix: string): AsyncIterable<SharedRecord>
  /** Called after a write, of this node or of another, took effect here. Returns the unsubscriber. */
  onChange(prefix: string, listener: (record: SharedRecord) => void): () => void
  close(): Promise<void>
}
