import type { Log } from '../../base/index.ts'
import type { NodeIdentity, Origin, PeerId, StoredBlob, Storing } from '../../manager/index.ts'
import type { Claim } from '../claims.ts'
import type { Runtimes } from '../runtime/index.ts'
import type { RuntimeName } from '../runtime/types.ts'
import type { States } from '../state/types.ts'
import type { BaseImages } from './base-image.ts'
import type { Freezing } from './freezing.ts'
import type { Published } from './published.ts'
import type { Slots } from './slots.ts'

/** What checkpoints are made with. */
export interface Parts {
  self: PeerId
  site: string
  identity: NodeIdentity
  storing: Pick<Storing, 'store' | 'forget' | 'ofRepository'>
  states: States
  runtimes: Pick<Runtimes, 'list' | 'get'>
  images: BaseImages
  published: Published
  slots: Slots
  freezing: Freezing
  /** Where a blob comes from that the site has not: another site of the cluster. */
  origin: (blob: StoredBlob) => Origin
  claim: Claim
  /** Whether the container is on its way to another node. */
  isMoving: (runtime: RuntimeName, id: string) => Promise<boolean>
  /** For what is on its way in or out. */
  dir: string
  log: Log
  /** ms since the epoch. */
  now: () => number
}
