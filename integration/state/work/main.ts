/** The process in which states are hashed, compressed, compared and written. See crew.ts. */
import { join } from 'node:path'
import { type Digest, isShoalError, ShoalError } from '../../../base/index.ts'
import { packSize, type Recipe } from '../form/recipe.ts'
import type { StateFile } from '../types.ts'
import { assembleFiles } from './assemble.ts'
import { createCalls, type Handler } from './calls.ts'
import { captureFiles } from './capture.ts'
import { createFrameCache } from './frame-cache.ts'
import { createJob, type Daemon, type Job, type JobBody, readRecipe } from './job.ts'
import { createKnowledge } from './known.ts'
import { createPageNames } from './page-names.ts'
import { readRange } from './read.ts'

const OUT = 2 ** 18

interface CaptureBody extends JobBody {
  files: StateFile[]
  base: Digest | undefined
  dir: string
  name: string
}
interface AssembleBody extends JobBody {
  recipe: Digest
  previous: Digest | undefined
  dir: string
}
interface ReadBody extends JobBody {
  recipe: Digest
  path: string
  start: number
  end: number
}

// The daemon is gone: what it wanted is wanted no more, and another one may begin anew.
process.on('disconnect', () => process.exit())
// A terminal or a service manager tells all processes to end; the daemon may still need this one for that.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {})
const parent = process.ppid

const stopped = new Set<number>()
const calls = createCalls(
  (message) => void process.send?.(message, undefined, undefined, (error) => error && process.exit()),
  (name) => jobs[name],
)
process.on('message', calls.receive)

const daemon: Daemon = {
  call: calls.call,
  // Its death is heard of at the next turn only.
  isStopped: (job) => stopped.has(job) || process.ppid !== parent,
}

const loadKnown = createKnowledge()
const cache = createFrameCache()
/** The next round of a migration goes on from it. */
let lastAssembled: { digest: Digest; recipe: Recipe } | undefined

/** Runs a job's work, and lets go of what it has open. */
const withJob =
  <B extends JobBody>(work: (body: B, job: Job) => Promise<unknown>): ((body: B) => Promise<unknown>) =>
  async (body) => {
    const job = createJob(body, daemon)
    try {
      return await work(body, job)
    } finally {
      stopped.delete(body.job)
      job.end()
    }
  }

const jobs: Record<string, Handler> = {
  stop({ job }: { job: number }) {
    stopped.add(job)
  },

  capture: withJob(async (body: CaptureBody, job) => {
    const names = createPageNames({ dir: join(body.dir, 'pages'), key: body.seal?.key })
    const known = await loadKnown(job, body.base, names)
    return captureFiles({
      job,
      known,
      files: body.files,
      dir: join(body.dir, 'making'),
      name: body.name,
      async onPack({ digest, size, path }) {
        await job.call('pack', { digest, size, path })
      },
    })
  }),

  assemble: withJob(async (body: AssembleBody, job) => {
    const { recipe } = await readRecipe(job, body.recipe)
    const previous = body.previous === undefined ? undefined : await readIfThere(job, body.previous)
    const written = await assembleFiles({ job, recipe, previous, dir: body.dir })
    // What is sealed is read again, with the key of who asks.
    lastAssembled = recipe.seal === undefined ? { digest: body.recipe, recipe } : undefined
    return written
  }),

  blobs: withJob(async (body: JobBody & { recipe: Digest }, job) => {
    const { recipe, size } = await readRecipe(job, body.recipe)
    return [
      { digest: body.recipe, size },
      ...recipe.packs.map((pack) => ({ digest: pack.digest, size: packSize(pack) })),
    ]
  }),

  read: withJob(async (body: ReadBody, job) => {
    const { recipe } = await readRecipe(job, body.recipe)
    const file = fileOf(recipe, body.path)
    const out = Buffer.allocUnsafeSlow(OUT)
    let filled = 0
    const flush = async (): Promise<void> => {
      if (filled === 0) return
      const length = filled
      filled = 0
      await job.give(out.subarray(0, length))
    }
    for await (const piece of readRange({
      job,
      cache,
      recipe,
      file,
      start: body.start,
      end: Math.min(body.end, file.size),
    })) {
      for (let at = 0; at < piece.length; ) {
        const part = Math.min(piece.length - at, OUT - filled)
        out.set(piece.subarray(at, at + part), filled)
        at += part
        filled += part
        if (filled === OUT) await flush()
      }
    }
    await flush()
  }),
}

/** What cannot be read any more cannot be built on. */
async function readIfThere(job: Job, digest: Digest): Promise<Recipe | undefined> {
  if (digest === lastAssembled?.digest && !job.seal) return lastAssembled.recipe
  try {
    return (await readRecipe(job, digest)).recipe
  } catch (error) {
    if (isShoalError(error, 'ABORTED')) throw error
    return undefined
  }
}

function fileOf(recipe: Recipe, path: string) {
  const file = recipe.files.find((each) => each.path === path)
  if (!file) throw new ShoalError('NOT_FOUND', `the state has no ${path}`)
  return file
}
