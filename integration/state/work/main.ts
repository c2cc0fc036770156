/** The process in which states are hashed, compressed, compared and written. See crew.ts. */
import { readSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { type Digest, isShoalError, ShoalError } from '../../../base/index.ts'
import { packSize, type Recipe } from '../form/recipe.ts'
import type { StateFile } from '../types.ts'
import { assembleFiles } from './assemble.ts'
import { createCalls, type Handler } from './calls.ts'
import { captureFiles } from './capture.ts'
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

/** Bytes go to the daemon and come from it by this pipe, in the order of the messages that announce them. */
const PIPE = 4

// The daemon is gone: what it wanted is wanted no more, and another one may begin anew.
process.on('disconnect', () => process.exit())

const stopped = new Set<number>()
let received = 0
let sent = 0
const calls = createCalls(
  (message) => void process.send?.(message),
  (name) => jobs[name],
)
process.on('message', calls.receive)

const daemon: Daemon = {
  call: calls.call,
  receive(into, before) {
    if (before !== received) throw new ShoalError('INTERNAL', 'bytes came in another order')
    received += into.length
    for (let at = 0; at < into.length; ) {
      const count = readSync(PIPE, into, at, into.length - at, null)
      if (count === 0) process.exit()
      at += count
    }
  },
  isStopped: (job) => stopped.has(job),
}

/** Resolves to the bytes that went before. */
function send(bytes: Uint8Array): number {
  const before = sent
  for (let at = 0; at < bytes.length; ) at += writeSync(PIPE, bytes, at)
  sent += bytes.length
  return before
}

const loadKnown = createKnowledge()
const jobOf = (body: JobBody): Job => createJob(body, daemon)

const jobs: Record<string, Handler> = {
  stop({ job }: { job: number }) {
    stopped.add(job)
  },

  async capture(body: CaptureBody) {
    const job = jobOf(body)
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
  },

  async assemble(body: AssembleBody) {
    const job = jobOf(body)
    const { recipe } = await readRecipe(job, body.recipe)
    const previous = body.previous === undefined ? undefined : await readIfThere(job, body.previous)
    return assembleFiles({ job, recipe, previous, dir: body.dir })
  },

  async blobs(body: JobBody & { recipe: Digest }) {
    const { recipe, size } = await readRecipe(jobOf(body), body.recipe)
    return [
      { digest: body.recipe, size },
      ...recipe.packs.map((pack) => ({ digest: pack.digest, size: packSize(pack) })),
    ]
  },

  async read(body: ReadBody) {
    const job = jobOf(body)
    const { recipe } = await readRecipe(job, body.recipe)
    const file = fileOf(recipe, body.path)
    const out = Buffer.allocUnsafeSlow(OUT)
    let filled = 0
    const flush = async (): Promise<void> => {
      if (filled === 0) return
      const length = filled
      filled = 0
      await job.call('chunk', { at: send(out.subarray(0, length)), length })
    }
    for await (const piece of readRange(job, recipe, file, body.start, Math.min(body.end, file.size))) {
      for (let at = 0; at < piece.length; ) {
        const part = Math.min(piece.length - at, OUT - filled)
        out.set(piece.subarray(at, at + part), filled)
        at += part
        filled += part
        if (filled === OUT) await flush()
      }
    }
    await flush()
  },
}

/** What cannot be read any more cannot be built on. */
async function readIfThere(job: Job, digest: Digest): Promise<Recipe | undefined> {
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
