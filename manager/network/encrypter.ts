import type { NoiseComponents } from '@chainsafe/libp2p-noise'
import type { ConnectionEncrypter } from '@libp2p/interface'
import type { TLSComponents } from '@libp2p/tls'

/** How connections are encrypted; nodes of one cluster must agree. */
export type EncrypterName = 'tls' | 'noise'

/** Libp2p's factory for the encrypter. Only the chosen one is loaded: each costs several MiB of memory. */
export async function loadEncrypter(
  name: EncrypterName,
): Promise<(components: TLSComponents & NoiseComponents) => ConnectionEncrypter> {
  if (name === 'noise') return (await import('@chainsafe/libp2p-noise')).noise()
  return (await import('@libp2p/tls')).tls()
}
