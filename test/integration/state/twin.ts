/** Capture and assembly in this process, with blobs in memory: many runs in little time. */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { type Digest, ShoalError } from '../../../base/index.ts'
import type { Recipe } from '../../../integration/state/form/recipe.ts'
import type { Seal } from '../../../integration/state/index.ts'
import { assembleFiles } from '../../../integration/state/work/assemble.ts'
import { captureFiles } from '../../../integration/state/work/capture.ts'
import { createFrameCache } from '../../../integration/state/work/frame-cache.ts'
import { type Job, readRecipe } from '../../../integration/state/work/job.ts'
import { createKnowledge } from '../../../integration/state/work/known.ts'
import { createPageNames } from '../../../integration/state/work/page-names.ts'
import { readRange } from '../../../integration/state/work/read.ts'
import type { Contents } from './tools.ts'

export interface Twin {
  blobs: Map<Digest, Buffer>
  /** Digests that were asked for since it was emptied. */
  fetched: Set<Digest>
  capture(
    contents: Contents,
    base?: Digest,
    options?: { seal?: Seal },
  ): Promise<{ recipe: Digest; changed: number; added: number; packs: Digest[] }>
  assemble(recipe: Digest, dir: string, previous?: Digest): Promise<number>
  recipe(digest: Digest): Promise<Recipe>
  read(recipe: Digest, path: string, start: number, end: number): Promise<Buffer>
  /** The process that worked on states is another one: nothing is warm. */
  restart(): void
}

export function createTwin(root: string): Twin {
  const blobs = new Map<Digest, Buffer>()
  const fetched = new Set<Digest>()
  const cache = createFrameCache()
  let load = createKnowledge()
  let count = 0

  const jobOf = (seal?: Seal): Job => ({
    seal,
    check: () => {},
    end: () => {},
    give: async () => {},
    turn: async () => {},
    async fetch({ digest }) {
      fetched.add(digest)
      const blob = blobs.get(digest)
      if (!blob) throw new ShoalError('NOT_FOUND', 'no such blob')
      return blob.length
    },
    async *read(digest, start, end) {
      const blob = blobs.get(digest) as Buffer
      // As odd as chunks may come.
      for (let at = start; at < end; at += 70_001) yield blob.subarray(at, Math.min(at + 70_001, end))
    },
    async load(digest, start, end) {
      const set = Buffer.from(blobs.get(digest)!.subarray(start, end))
      return {
        copy: (into, at) => into.set(set.subarray(at - start, at - start + into.length)),
        drop: () => set.fill(0),
      }
    },
    call: async (_name, body) => (body as { digests: Digest[] }).digests.every((digest) => blobs.has(digest)),
  })

  return {
    blobs,
    fetched,
    async capture(contents, base, { seal } = {}) {
      const name = `${count++}`
      const dump = join(root, 'dump', name)
      const files = Object.entries(contents).map(([path, bytes]) => {
        const from = join(dump, path)
        mkdirSync(dirname(from), { recursive: true })
        writeFileSync(from, bytes)
        return { path, from }
      })
      const job = jobOf(seal)
      const names = createPageNames({ dir: join(root, 'pages'), key: seal?.key })
      const known = await load(job, base, names)
      const take = (blob: { digest: Digest; path: string }): void => {
        blobs.set(blob.digest, readFileSync(blob.path))
        rmSync(blob.path)
      }
      const dir = join(root, 'making')
      const made = await captureFiles({ job, files, known, dir, name, onPack: async (pack) => take(pack) })
      take(made.recipe)
      rmSync(dump, { recursive: true, force: true })
      const { changed, recipe, packs } = made
      return {
        recipe: recipe.digest,
        changed,
        added: made.added + recipe.size,
        packs: packs.map(({ digest }) => digest),
      }
    },
    async assemble(digest, dir, previous) {
      const job = jobOf()
      const { recipe } = await readRecipe(job, digest)
      const before = previous === undefined ? undefined : (await readRecipe(job, previous)).recipe
      return assembleFiles({ job, recipe, previous: before, dir })
    },
    recipe: async (digest) => (await readRecipe(jobOf(), digest)).recipe,
    async read(digest, path, start, end) {
      const job = jobOf()
      const { recipe } = await readRecipe(job, digest)
      const file = recipe.files.find((each) => each.path === path)!
      const parts: Buffer[] = []
      for await (const part of readRange({ job, cache, recipe, file, start, end: Math.min(end, file.size) }))
        parts.push(Buffer.from(part))
      return Buffer.concat(parts)
    },
    restart() {
      load = createKnowledge()
    },
  }
}
