import type { PeerId } from '../types.ts'
import type { Links } from './links.ts'

/** A place where members may be found. */
export interface BootstrapSource {
  name: string
  /** Connects to whom it finds there. @throws when that is nobody */
  contact(links: Links, signal: AbortSignal): Promise<PeerId[]>
}
