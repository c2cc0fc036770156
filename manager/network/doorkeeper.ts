import { randomBytes } from 'node:crypto'
import { createLobby, type LobbySeat } from './lobby.ts'
import { PROOF_LENGTH, proof, proofHolds } from './proof.ts'

const NONCE_LENGTH = 32
const REMEMBERED = 4096

/** Bytes in a knock. */
export const KNOCK_LENGTH = NONCE_LENGTH + PROOF_LENGTH
/** ms that a stranger has for the knock. */
export const KNOCK_MS = 3000

/** The first bytes of every connection, from the dialer: a nonce and the proof over it. */
export function knockBytes(clusterKey: Uint8Array): Buffer {
  const nonce = randomBytes(NONCE_LENGTH)
  return Buffer.concat([nonce, proof(clusterKey, 'shoal-knock', nonce)])
}

/** Decides who is let in at all. */
export interface Doorkeeper {
  /** A place for a connection until it has knocked. */
  enter(host: string): LobbySeat
  /**
   * True for a knock made with the cluster key and not heard before. (One that was overheard on the wire and is replayed
   * at another node passes; the binding after the handshake stops it.)
   */
  admits(knock: Uint8Array): boolean
}

export function createDoorkeeper(options: { clusterKey: Uint8Array; maxPending: number }): Doorkeeper {
  const { clusterKey, maxPending } = options
  const lobby = createLobby({ capacity: maxPending })
  const heard = new Set<string>()
  return {
    enter: (host) => lobby.enter(host),
    admits(knock) {
      const nonce = knock.subarray(0, NONCE_LENGTH)
      if (!proofHolds(proof(clusterKey, 'shoal-knock', nonce), knock.subarray(NONCE_LENGTH))) return false
      const name = Buffer.from(nonce).toString('latin1')
      if (heard.has(name)) return false
      heard.add(name)
      if (heard.size > REMEMBERED) heard.delete(heard.values().next().value ?? '')
      return true
    },
  }
}
