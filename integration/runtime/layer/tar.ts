import { ShoalError } from '../../../base/index.ts'

export type TarType = 'file' | 'dir' | 'symlink' | 'link' | 'fifo' | 'char' | 'block'

/**
 * One entry of a tar. Names are kept as `latin1` text, a character a byte, since a file's name need not be UTF-8; so are
 * attributes kept as bytes (tar libraries for Node take them for text, which spoils `security.capability`).
 */
export interface TarHead {
  name: string
  type: TarType
  /** Target of a link, symbolic or hard. */
  link: string
  mode: number
  uid: number
  gid: number
  size: number
  /** Seconds since the epoch, in decimal, as exact as the archive has it. */
  mtime: string
  major: number
  minor: number
  xattrs: ReadonlyMap<string, Buffer>
}

export interface TarEntry extends TarHead {
  /** What the entry holds. What is not read is skipped when the next entry is asked for. */
  body: AsyncIterable<Buffer>
}

const BLOCK = 512
/** Of a header's extension (pax, long names): names of 4 KiB and attributes of 64 KiB fit many times. */
const MAX_EXTENSION = 1024 * 1024
const XATTR = 'SCHILY.xattr.'

const TYPES: Record<string, TarType> = {
  '\0': 'file',
  '0': 'file',
  '7': 'file',
  '1': 'link',
  '2': 'symlink',
  '3': 'char',
  '4': 'block',
  '5': 'dir',
  '6': 'fifo',
}
const FLAGS: Record<TarType, string> = {
  file: '0',
  link: '1',
  symlink: '2',
  char: '3',
  block: '4',
  dir: '5',
  fifo: '6',
}

/** Takes exact numbers of bytes from a stream of chunks. */
class Bytes {
  readonly #source: AsyncIterator<Buffer>
  #rest: Buffer = Buffer.alloc(0)

  constructor(source: AsyncIterable<Buffer>) {
    this.#source = source[Symbol.asyncIterator]()
  }

  /** Between one byte and `max`; empty at the end. */
  async some(max: number): Promise<Buffer> {
    while (this.#rest.length === 0) {
      const next = await this.#source.next()
      if (next.done) return this.#rest
      this.#rest = next.value
    }
    const taken = this.#rest.subarray(0, max)
    this.#rest = this.#rest.subarray(taken.length)
    return taken
  }

  /** Undefined at the end. @throws PROTOCOL where it ends within */
  async exactly(count: number): Promise<Buffer | undefined> {
    const first = await this.some(count)
    if (first.length === count || (first.length === 0 && count > 0)) return first.length ? first : undefined
    const parts = [first]
    for (let left = count - first.length; left > 0; ) {
      const part = await this.some(left)
      if (part.length === 0) throw broken('it ends in the middle of an entry')
      parts.push(part)
      left -= part.length
    }
    return Buffer.concat(parts)
  }

  async close(): Promise<void> {
    await this.#source.return?.()
  }
}

/** The entries of a tar (ustar, pax, GNU's long names), one after the other. @throws PROTOCOL for what is no tar */
export async function* readTar(source: AsyncIterable<Buffer>): AsyncGenerator<TarEntry> {
  const bytes = new Bytes(source)
  let ended = false
  try {
    let pax = new Map<string, Buffer>()
    let longName: string | undefined
    let longLink: string | undefined
    for (;;) {
      const block = await bytes.exactly(BLOCK)
      if (!block) throw broken('it has no end')
      if (block.every((byte) => byte === 0)) break
      const flag = checkedFlag(block)
      const size = number(block, 124, 12)
      if ('xgLK'.includes(flag)) {
        if (size > MAX_EXTENSION) throw broken(`a header of ${size} bytes`)
        const data = size === 0 ? Buffer.alloc(0) : await bytes.exactly(padded(size))
        if (!data) throw broken('it ends in the middle of an entry')
        const value = data.subarray(0, size)
        if (flag === 'x') pax = readPax(value)
        else if (flag === 'L') longName = text(value, 0, size)
        else if (flag === 'K') longLink = text(value, 0, size)
        continue
      }
      const head = readHead(block, flag, size, pax, longName, longLink)
      pax = new Map()
      longName = longLink = undefined
      let left = head.size
      async function* body(): AsyncGenerator<Buffer> {
        while (left > 0) {
          const part = await bytes.some(left)
          if (part.length === 0) throw broken('it ends in the middle of an entry')
          left -= part.length
          yield part
        }
      }
      yield { ...head, body: body() }
      for (left += padded(head.size) - head.size; left > 0; ) {
        const part = await bytes.some(left)
        if (part.length === 0) throw broken('it ends in the middle of an entry')
        left -= part.length
      }
    }
    // The rest is padding: read it, so that who writes it is not cut off.
    while ((await bytes.some(65536)).length > 0);
    ended = true
  } finally {
    if (!ended) await bytes.close()
  }
}

/** The bytes before an entry's body, its pax header included where the plain one has no room for something. */
export function tarHead(head: TarHead): Buffer {
  const pax: [string, Buffer][] = []
  const say = (key: string, value: string): void => void pax.push([key, Buffer.from(value, 'latin1')])
  if (head.name.length > 100) say('path', head.name)
  if (head.link.length > 100) say('linkpath', head.link)
  if (!/^\d{1,10}$/.test(head.mtime)) say('mtime', head.mtime)
  if (head.uid > 0o7777777) say('uid', String(head.uid))
  if (head.gid > 0o7777777) say('gid', String(head.gid))
  if (head.size > 0o77777777777) say('size', String(head.size))
  for (const name of [...head.xattrs.keys()].sort()) pax.push([XATTR + name, head.xattrs.get(name)!])
  const plain = writeBlock(head, FLAGS[head.type])
  if (pax.length === 0) return plain
  const records = Buffer.concat(pax.map(([key, value]) => paxRecord(key, value)))
  const extension = writeBlock(
    { ...head, name: 'PaxHeader', link: '', size: records.length, mode: 0o644, mtime: '0', uid: 0, gid: 0 },
    'x',
  )
  return Buffer.concat([extension, records, tarPadding(records.length), plain])
}

/** What fills the last block of a body of so many bytes. */
export function tarPadding(size: number): Buffer {
  return Buffer.alloc(padded(size) - size)
}

export const TAR_END: Buffer = Buffer.alloc(2 * BLOCK)

/** A name for people. */
export function readable(name: string): string {
  return Buffer.from(name, 'latin1').toString('utf8')
}

function padded(size: number): number {
  return Math.ceil(size / BLOCK) * BLOCK
}

function broken(why: string): ShoalError {
  return new ShoalError('PROTOCOL', `not a good tar: ${why}`)
}

function text(block: Buffer, at: number, length: number): string {
  const field = block.subarray(at, at + length)
  const end = field.indexOf(0)
  return field.toString('latin1', 0, end < 0 ? length : end)
}

function number(block: Buffer, at: number, length: number): number {
  // Base 256 with the first bit set, for what octal digits cannot hold.
  if (block[at]! & 0x80) {
    let value = BigInt(block[at]! & 0x7f)
    for (let i = at + 1; i < at + length; i++) value = (value << 8n) | BigInt(block[i]!)
    if (block[at]! & 0x40 || value > BigInt(Number.MAX_SAFE_INTEGER)) throw broken('a number out of range')
    return Number(value)
  }
  const digits = text(block, at, length).trim()
  if (!/^[0-7]*$/.test(digits)) throw broken(`${JSON.stringify(digits)} for a number`)
  return digits === '' ? 0 : Number.parseInt(digits, 8)
}

function checkedFlag(block: Buffer): string {
  let sum = 0
  for (let i = 0; i < BLOCK; i++) sum += i >= 148 && i < 156 ? 32 : block[i]!
  if (number(block, 148, 8) !== sum) throw broken('a header whose checksum is wrong')
  return String.fromCharCode(block[156]!)
}

function readPax(data: Buffer): Map<string, Buffer> {
  const records = new Map<string, Buffer>()
  for (let at = 0; at < data.length; ) {
    const space = data.indexOf(32, at)
    const length = space < 0 ? Number.NaN : Number(data.toString('latin1', at, space))
    const end = at + length
    const equals = data.indexOf(61, space)
    if (!Number.isInteger(length) || end > data.length || equals < 0 || equals >= end || data[end - 1] !== 10)
      throw broken('a pax header that is none')
    records.set(data.toString('latin1', space + 1, equals), data.subarray(equals + 1, end - 1))
    at = end
  }
  return records
}

function readHead(
  block: Buffer,
  flag: string,
  plainSize: number,
  pax: Map<string, Buffer>,
  longName: string | undefined,
  longLink: string | undefined,
): TarHead {
  const type = TYPES[flag]
  if (!type) throw broken(`an entry of type ${JSON.stringify(flag)}`)
  const said = (key: string): string | undefined => pax.get(key)?.toString('latin1')
  const count = (key: string, plain: number): number => {
    const value = said(key)
    if (value === undefined) return plain
    if (!/^\d{1,16}$/.test(value) || !Number.isSafeInteger(Number(value))) throw broken(`${key} ${value}`)
    return Number(value)
  }
  const xattrs = new Map<string, Buffer>()
  for (const [key, value] of pax) {
    if (key.startsWith(XATTR)) xattrs.set(key.slice(XATTR.length), value)
    else if (key.startsWith('GNU.sparse')) throw broken('a sparse file in GNU tar’s own form')
  }
  // GNU's old format has other things where POSIX has a prefix.
  const prefix = text(block, 257, 6) === 'ustar' ? text(block, 345, 155) : ''
  const name = text(block, 0, 100)
  const mtime = said('mtime') ?? String(number(block, 136, 12))
  if (!/^-?\d{1,15}(\.\d{0,20})?$/.test(mtime)) throw broken(`mtime ${mtime}`)
  const size = count('size', plainSize)
  return {
    name: said('path') ?? longName ?? (prefix ? `${prefix}/${name}` : name),
    type: type === 'file' && flag === '\0' && name.endsWith('/') ? 'dir' : type,
    link: said('linkpath') ?? longLink ?? text(block, 157, 100),
    mode: number(block, 100, 8) & 0o7777,
    uid: count('uid', number(block, 108, 8)),
    gid: count('gid', number(block, 116, 8)),
    // A hard link may repeat its target's size; there is no body all the same.
    size: type === 'file' ? size : 0,
    mtime,
    major: type === 'char' || type === 'block' ? number(block, 329, 8) : 0,
    minor: type === 'char' || type === 'block' ? number(block, 337, 8) : 0,
    xattrs,
  }
}

function writeBlock(head: TarHead, flag: string): Buffer {
  const block = Buffer.alloc(BLOCK)
  const octal = (value: number, at: number, length: number): void => {
    const most = 8 ** (length - 1) - 1
    block.write(
      Math.min(value, most)
        .toString(8)
        .padStart(length - 1, '0'),
      at,
      'latin1',
    )
  }
  block.write(head.name.slice(0, 100), 0, 'latin1')
  octal(head.mode, 100, 8)
  octal(head.uid, 108, 8)
  octal(head.gid, 116, 8)
  octal(head.size, 124, 12)
  octal(Math.max(0, Math.floor(Number(head.mtime))), 136, 12)
  block.write(flag, 156, 'latin1')
  block.write(head.link.slice(0, 100), 157, 'latin1')
  block.write('ustar\x0000', 257, 'latin1')
  octal(head.major, 329, 8)
  octal(head.minor, 337, 8)
  let sum = 8 * 32
  for (const byte of block) sum += byte
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1')
  return block
}

/** `LENGTH KEY=VALUE\n`, where the length counts its own digits. */
function paxRecord(key: string, value: Buffer): Buffer {
  const rest = key.length + value.length + 3
  let length = rest + String(rest).length
  if (String(length).length > String(rest).length) length = rest + String(length).length
  return Buffer.concat([Buffer.from(`${length} ${key}=`, 'latin1'), value, Buffer.from('\n')])
}
