import { get as getHttp, type IncomingMessage } from 'node:http'
import { get as getHttps } from 'node:https'
import { ShoalError } from '../../base/index.ts'
import type { PeerId } from '../types.ts'

const MAX_BYTES = 256 * 1024

/**
 * Asks the node whose API is at `base` who it is and where it listens.
 *
 * @throws PEER_GONE when nobody answers, PROTOCOL when it is no Shoal API, ABORTED
 */
export async function fetchStatus(
  base: URL,
  signal: AbortSignal,
): Promise<{ peer: PeerId; addrs: string[] }> {
  const url = new URL('/api/v1/status', base)
  const response = await open(url, signal)
  const text = await readText(response, url)
  if (response.statusCode !== 200) {
    throw new ShoalError('PEER_GONE', `${url.href} answers ${response.statusCode}`)
  }
  const status = parse(text)
  if (status === undefined) throw new ShoalError('PROTOCOL', `${url.href} is not the API of a Shoal node`)
  return status
}

function open(url: URL, signal: AbortSignal): Promise<IncomingMessage> {
  const get = url.protocol === 'https:' ? getHttps : getHttp
  return new Promise((resolve, reject) => {
    // No connection is kept: it is asked once and rarely.
    get(url, { signal, agent: false, headers: { accept: 'application/json' } }, resolve).on(
      'error',
      (error) => reject(new ShoalError('PEER_GONE', `${url.href}: ${error.message}`, { cause: error })),
    )
  })
}

async function readText(response: IncomingMessage, url: URL): Promise<string> {
  const chunks: Buffer[] = []
  let length = 0
  try {
    for await (const chunk of response as AsyncIterable<Buffer>) {
      length += chunk.length
      if (length > MAX_BYTES) throw new ShoalError('PROTOCOL', `${url.href} answers too much`)
      chunks.push(chunk)
    }
  } catch (error) {
    if (error instanceof ShoalError) throw error
    throw new ShoalError('PEER_GONE', `${url.href} broke off`, { cause: error })
  }
  return Buffer.concat(chunks).toString('utf8')
}

function parse(text: string): { peer: PeerId; addrs: string[] } | undefined {
  try {
    const { id, addrs } = JSON.parse(text) as { id?: unknown; addrs?: unknown }
    if (typeof id !== 'string' || !Array.isArray(addrs)) return undefined
    const texts = addrs.filter((address): address is string => typeof address === 'string').slice(0, 16)
    return texts.length === 0 ? undefined : { peer: id, addrs: texts }
  } catch {
    return undefined
  }
}
