import fs from 'node:fs'
import { errnoOf } from '../base/index.ts'

/** Bytes read at once, and in memory. A multiple of every device's sector, as direct reads want it. */
const CHUNK = 1024 * 1024
const WASM_PAGE = 64 * 1024

/** Not among the types that come with Node. */
declare const WebAssembly: {
  Memory: new (size: { initial: number; maximum: number }) => { buffer: ArrayBuffer }
}

/** Reads files from the disk itself, where the file system lets it. */
export interface DirectReader {
  /** Hands the file's bytes on, part by part; a part is valid during the call. False when there is no such file. */
  read(path: string, onBytes: (bytes: Uint8Array) => void): Promise<boolean>
}

/**
 * A bit that rotted on the disk is not seen in the page cache, where a good copy of it may lie. So files are opened with
 * O_DIRECT: the kernel writes out what is still dirty and reads past its cache. That wants memory aligned to sectors, which
 * Node's buffers are not, but the memory of WebAssembly is. File systems without it (some network and stacked ones) refuse with EINVAL,
 * and are read through the cache: then only what has left the cache meanwhile, or was never in it, comes from the disk. The
 * caches of the disk and its controller are passed by in neither case.
 */
export function createDirectReader(): DirectReader {
  const { buffer } = new WebAssembly.Memory({ initial: CHUNK / WASM_PAGE, maximum: CHUNK / WASM_PAGE })
  const chunk = new Uint8Array(buffer)
  const { O_RDONLY, O_DIRECT = 0 } = fs.constants

  async function through(path: string, flags: number, onBytes: (bytes: Uint8Array) => void): Promise<void> {
    const file = await fs.promises.open(path, flags)
    try {
      for (let at = 0; ; ) {
        const { bytesRead } = await file.read(chunk, 0, CHUNK, at)
        onBytes(chunk.subarray(0, bytesRead))
        at += bytesRead
        // A short read is the file's end: a direct read could not go on from an odd place anyway.
        if (bytesRead < CHUNK) return
      }
    } finally {
      await file.close()
    }
  }

  return {
    async read(path, onBytes) {
      try {
        let begun = false
        await through(path, O_RDONLY | O_DIRECT, (bytes) => {
          begun = true
          onBytes(bytes)
        }).catch((error: unknown) => {
          if (begun || errnoOf(error) !== 'EINVAL') throw error
          return through(path, O_RDONLY, onBytes)
        })
        return true
      } catch (error) {
        if (errnoOf(error) === 'ENOENT') return false
        throw error
      }
    },
  }
}
