import { createReadStream } from 'node:fs'
import { mkdir, mkdtemp, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { isShoalError, ShoalError } from '../../base/index.ts'
import { ANNOTATION, restoreConfig } from '../migration/criu-config.ts'
import type { Prepared } from '../runtime/types.ts'
import { CRIU_DIR, RW_FILE } from './artifact.ts'
import type { BaseImage } from './base-image.ts'
import { unfitError } from './create.ts'
import type { CheckpointDocument, Inside } from './document.ts'
import { unfit } from './fitness.ts'
import { LABEL } from './freezing.ts'
import { hostFacts } from './host.ts'
import type { Parts } from './parts.ts'
import { openDocument } from './sealing.ts'
import { createSteps } from './steps.ts'
import type { Checkpoints } from './types.ts'

type RestoreRequest = Omit<Parameters<Checkpoints['restore']>[0], 'reference'>

const UNDO_MS = 60_000

/** Restores a checkpoint on this node: everything is checked, then everything is here and verified, and only then is anything made. */
export async function restoreCheckpoint(
  parts: Parts,
  document: CheckpointDocument,
  request: RestoreRequest,
): Promise<Awaited<ReturnType<Checkpoints['restore']>>> {
  const { signal } = request
  const steps = createSteps(request.onStep)
  const { inside, seal } = openDocument(document, parts.self, parts.identity)
  const { recreation } = inside
  const name = request.name ?? recreation.name
  const runtime = request.runtime ?? recreation.runtime
  const driver = parts.runtimes.list().includes(runtime) ? await parts.runtimes.get(runtime) : undefined
  const unclaim = parts.claim(runtime, name, 'restored')
  try {
    await mkdir(parts.dir, { recursive: true, mode: 0o700 })
    const image = await steps.run('check', async () => {
      const { base, lacks } = await findImage(parts, inside, signal)
      const host = await hostFacts({
        recreation,
        name,
        runtime: driver,
        dir: parts.dir,
        imageLacks: lacks,
        signal,
      })
      const reasons = unfit({ needs: document.needs, host, recreation, name, runtime, size: document.size })
      if (reasons.length > 0 || !driver) throw unfitError(`${document.name}:${document.version}`, reasons)
      return base?.reference
    })
    const dir = await mkdtemp(join(parts.dir, 'restore-'))
    let prepared: Prepared | undefined
    let forget: (() => Promise<void>) | undefined
    try {
      await steps.run('state', async () => {
        const sealed = seal === undefined ? {} : { seal }
        await parts.states.assemble({ recipe: document.recipe, dir, origin: parts.origin, ...sealed, signal })
        await check(inside, dir)
      })
      const { spec } = recreation
      // Never one that the checkpoint names.
      const annotations = { ...spec.annotations, [ANNOTATION]: await restoreConfig(parts.dir, false) }
      const adapted = { ...recreation, spec: { ...spec, annotations } }
      const label = `${document.name}:${document.version}`
      forget = await parts.freezing.making(runtime, name, label)
      const made = await steps.run('prepare', () =>
        driver!.prepare({ name, recreation: adapted, image, labels: { [LABEL]: label } }, signal),
      )
      prepared = made
      await steps.run('layer', () => made.applyWritable(createReadStream(join(dir, RW_FILE)), signal))
      const { pid } = await steps.run('start', () => made.start(join(dir, CRIU_DIR), signal))
      await forget()
      return { container: made.id, pid, seconds: steps.seconds }
    } catch (error) {
      await prepared
        ?.discard(AbortSignal.timeout(UNDO_MS))
        .then(forget, (failure) =>
          parts.log.error(
            { name, error: String(failure) },
            'a container that was to be restored is not removed',
          ),
        )
      if (!prepared) await forget?.()
      throw error
    } finally {
      await rm(dir, { recursive: true, force: true })
    }
  } finally {
    unclaim()
  }
}

async function findImage(
  { images }: Parts,
  { recreation }: Inside,
  signal: AbortSignal,
): Promise<{ base: BaseImage | undefined; lacks: string | undefined }> {
  if (!recreation.image) return { base: undefined, lacks: undefined }
  try {
    return { base: await images.find(recreation.image, signal), lacks: undefined }
  } catch (error) {
    if (!isShoalError(error) || signal.aborted) throw error
    return { base: undefined, lacks: error.message }
  }
}

/** The state is whole and its digests are right by now; this holds it against what its maker has signed. @throws PROTOCOL */
async function check({ criu, rw }: Inside, dir: string): Promise<void> {
  for (const { path, size } of [...criu, { path: RW_FILE, size: rw.size }]) {
    const found = await stat(join(dir, path)).catch(() => undefined)
    if (!found?.isFile() || found.size !== size) {
      throw new ShoalError('PROTOCOL', `the state is not what the checkpoint says: ${path}`)
    }
  }
}
