import type { PeerId } from '../../manager/index.ts'

/** A device's request after it was let in, wherever it came in: the node that keeps what the device has works on it. */
export interface Call {
  ue: string
  method: string
  /** Without the query. */
  path: string
  query: Record<string, string[]>
  /** Undefined for none. */
  body: unknown
  /** How the device reached the API: `http://10.0.0.2:5090`. */
  base: string
  /** The node that it reached. */
  entry: PeerId
  /** The device's IP address, as that node saw it. */
  address: string
  /** It is a process of the very machine that works on the call: loopback is its own. */
  local: boolean
}

export interface Reply {
  status: number
  headers?: Record<string, string>
  /** JSON; undefined for none. */
  body?: unknown
}

export interface MecRoute {
  method: 'get' | 'post' | 'put' | 'delete'
  /** With `{name}` for a parameter, as in OpenAPI. */
  path: string
  handle(call: Call, parameters: Record<string, string>): Promise<Reply>
}

/** A device as the cluster knows it: a shared record. */
export interface Device {
  ue: string
  /** The node that keeps what it has: applications, contexts, subscriptions. */
  home: PeerId
  createdAt: number
}

/** A token as an operator sees it; the secret is nowhere. */
export interface TokenInfo {
  id: string
  ue: string
  createdAt: number
  /** ms since the epoch; absent: it does not expire. */
  expiresAt?: number
}

export interface MecTokens {
  /**
   * Makes a token for a device. Where the device is new, this node becomes its home, and where its home is lost and it has no token
   * any more. The text is told this once.
   * @throws NAME_INVALID | USAGE | NO_QUORUM
   */
  create(ue: string, options?: { expiresInMs?: number }): Promise<TokenInfo & { token: string }>
  /** By device, then by age. */
  list(): TokenInfo[]
  /** By a token's ID, or all of a device. Resolves to how many there were. */
  revoke(idOrUe: string): Promise<number>
  /** The device whose token it is. @throws UNAUTHORIZED */
  check(token: string): Device
  device(ue: string): Device | undefined
  devices(): Device[]
  /** Called after a device came, or found another home. Returns the unsubscriber. */
  onDevice(listener: (device: Device) => void): () => void
  close(): void
}

/** An application that the site offers to devices: what a device finds in ETSI's application list. */
export interface Offer {
  appDId: string
  appName: string
  appProvider: string
  appSoftVersion: string
  appDVersion: string
  appDescription: string
  vendorId?: string
  /** The application must keep its state when it moves. */
  serviceCont?: boolean
  /** Only these devices see it. */
  devices?: string[]
  /** As in kube-mec's request. */
  application: unknown
}
