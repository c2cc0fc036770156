import { type Digest, ShoalError } from '../../base/index.ts'

/** A blob that is nowhere as such: bytes of its own and ranges of the state's files, in turn. */
export interface Virtual {
  size: number
  parts(): Iterable<Part>
}

export type Part = { bytes: Uint8Array } | { path: string; start: number; end: number }

/** A virtual blob, and what the OCI index says of it. */
export interface Described {
  digest: Digest
  mediaType: string
  blob: Virtual
}

export type ReadFile = (path: string, start: number, end: number) => AsyncIterable<Uint8Array>

export function lengthOf(part: Part): number {
  return 'bytes' in part ? part.bytes.length : part.end - part.start
}

/** Bytes `start … end` of a virtual blob; a chunk is valid until the next one is asked for. */
export async function* readVirtual(
  blob: Virtual,
  range: { start: number; end: number },
  read: ReadFile,
): AsyncGenerator<Uint8Array> {
  const files = createReaders(read, endsIn(blob, range))
  try {
    for (const { part, from, to } of cut(blob, range)) {
      if ('bytes' in part) yield part.bytes.subarray(from, to)
      else yield* files.read(part.path, part.start + from, part.start + to)
    }
  } finally {
    await files.close()
  }
}

/** What of each part lies in the range. */
function* cut(
  blob: Virtual,
  range: { start: number; end: number },
): Generator<{ part: Part; from: number; to: number }> {
  let at = 0
  for (const part of blob.parts()) {
    if (at >= range.end) return
    const from = Math.max(0, range.start - at)
    const to = Math.min(lengthOf(part), range.end - at)
    if (from < to) yield { part, from, to }
    at += lengthOf(part)
  }
}

/** How far each file is read. */
function endsIn(blob: Virtual, range: { start: number; end: number }): Map<string, number> {
  const ends = new Map<string, number>()
  for (const { part, to } of cut(blob, range)) if ('path' in part) ends.set(part.path, part.start + to)
  return ends
}

/** Reads a file that is cut into many parts in one go: to open it costs far more than a part is long. */
function createReaders(read: ReadFile, ends: Map<string, number>) {
  let open: { path: string; at: number; rest: Uint8Array; chunks: AsyncIterator<Uint8Array> } | undefined

  async function close(): Promise<void> {
    await open?.chunks.return?.()
    open = undefined
  }

  return {
    close,
    async *read(path: string, start: number, end: number): AsyncGenerator<Uint8Array> {
      if (open?.path !== path || open.at !== start) {
        await close()
        const chunks = read(path, start, ends.get(path) ?? end)[Symbol.asyncIterator]()
        open = { path, at: start, rest: new Uint8Array(0), chunks }
      }
      const reader = open
      while (reader.at < end) {
        if (reader.rest.length === 0) {
          const next = await reader.chunks.next()
          if (next.done) throw new ShoalError('PROTOCOL', `${path} is shorter than the checkpoint says`)
          reader.rest = next.value
          continue
        }
        const taken = reader.rest.subarray(0, end - reader.at)
        reader.rest = reader.rest.subarray(taken.length)
        reader.at += taken.length
        yield taken
      }
    },
  }
}

export function literal(bytes: Uint8Array): Virtual {
  return { size: bytes.length, parts: () => [{ bytes }] }
}
