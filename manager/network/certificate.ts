import { createPublicKey, type KeyObject, sign } from 'node:crypto'

const ED25519 = [1, 3, 101, 112]
const COMMON_NAME = [2, 5, 4, 3]

/**
 * A self-signed X.509 certificate (PEM) for an Ed25519 key, by RFC 5280 and RFC 8410. It says nothing but the public
 * key: name and dates are fixed, as nobody checks them and the clocks of edge nodes are often wrong.
 */
export function selfSignedCertificate(key: KeyObject): string {
  const algorithm = sequence(objectId(ED25519))
  const name = sequence(set(sequence(objectId(COMMON_NAME), element(0x0c, Buffer.from('shoal')))))
  const validity = sequence(
    element(0x17, Buffer.from('200101000000Z')),
    element(0x18, Buffer.from('99991231235959Z')),
  )
  const publicKey = createPublicKey(key).export({ format: 'der', type: 'spki' })
  const version = element(0xa0, integer(2))
  const body = sequence(version, integer(1), algorithm, name, validity, name, publicKey)
  const certificate = sequence(body, algorithm, bitString(sign(null, body, key)))
  const lines = certificate.toString('base64').match(/.{1,64}/g) ?? []
  return `-----BEGIN CERTIFICATE-----\n${lines.join('\n')}\n-----END CERTIFICATE-----\n`
}

/** One element of DER: tag, length, content. */
function element(tag: number, ...contents: Uint8Array[]): Buffer {
  const content = Buffer.concat(contents)
  const { length } = content
  const header = length < 128 ? [tag, length] : [tag, 0x82, length >> 8, length & 0xff]
  return Buffer.concat([Buffer.from(header), content])
}

function sequence(...contents: Uint8Array[]): Buffer {
  return element(0x30, ...contents)
}

function set(...contents: Uint8Array[]): Buffer {
  return element(0x31, ...contents)
}

/** Of one byte below 128. */
function integer(value: number): Buffer {
  return element(0x02, Buffer.from([value]))
}

function bitString(bytes: Uint8Array): Buffer {
  return element(0x03, Buffer.from([0]), bytes)
}

/** Whose arcs are all below 128. */
function objectId([first = 0, second = 0, ...rest]: number[]): Buffer {
  return element(0x06, Buffer.from([first * 40 + second, ...rest]))
}
