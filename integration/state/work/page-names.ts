import { hash } from 'node:crypto'
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Digest } from '../../../base/index.ts'
import { FRAME_PAGES, NAME, PAGE } from '../form/limits.ts'
import type { Pack } from '../form/recipe.ts'
import { openPart, sealPart } from '../form/seal.ts'
import type { Job } from './job.ts'
import { eachFrame } from './pack-reader.ts'

/** The name of a page's content. */
export const nameOf = (page: Uint8Array): Buffer => hash('sha256', page, 'buffer')

/** Names of the pages of each pack, in files that can be made again from the packs. */
export interface PageNames {
  /** From the file, or where that is not sound from the pack itself. */
  load(pack: Pack, job: Job): Promise<Buffer>
  save(digest: Digest, names: Buffer): void
}

export function createPageNames({ dir, key }: { dir: string; key: Uint8Array | undefined }): PageNames {
  const pathOf = (digest: Digest): string => join(dir, digest.replace(':', '-'))

  function save(digest: Digest, names: Buffer): void {
    mkdirSync(dir, { recursive: true })
    const path = pathOf(digest)
    const staged = `${path}.new`
    const bytes = Buffer.concat([names, nameOf(names)])
    writeFileSync(staged, key ? sealPart(key, bytes) : bytes, { mode: 0o600 })
    renameSync(staged, path)
  }

  function read(pack: Pack): Buffer | undefined {
    try {
      const file = readFileSync(pathOf(pack.digest))
      const bytes = key ? openPart(key, file) : file
      const names = bytes.subarray(0, pack.pages * NAME)
      // A wrong name would put a wrong page into a state.
      return nameOf(names).equals(bytes.subarray(names.length)) ? names : undefined
    } catch {
      return undefined
    }
  }

  return {
    save,
    async load(pack, job) {
      const known = read(pack)
      if (known) return known
      const names = Buffer.alloc(pack.pages * NAME)
      const all = Array.from(pack.frames.keys())
      await eachFrame(job, pack, all, (frame, bytes) => {
        for (let at = 0; at < bytes.length; at += PAGE) {
          const page = frame * FRAME_PAGES + at / PAGE
          nameOf(bytes.subarray(at, at + PAGE)).copy(names, page * NAME, 0, NAME)
        }
      })
      save(pack.digest, names)
      return names
    },
  }
}
