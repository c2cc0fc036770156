import { type Digest, isShoalError, ShoalError } from '../../../base/index.ts'
import { parseReference } from '../../../proxy/index.ts'
import type { DockerApi } from './api.ts'
import { properName } from './container.ts'

const PULL_MS = 30 * 60_000

/**
 * The ID of an image that is here now: what docker has under that name, or else pulled through Shoal's registry and named properly.
 * @throws NOT_FOUND | RUNTIME
 */
export async function ensureImage(
  api: DockerApi,
  options: { image: string; digest: Digest | undefined; registry: string; signal: AbortSignal },
): Promise<string> {
  const { registry, signal } = options
  const { reference, proper, pulled, tag, digest = options.digest } = namesOf(options.image, registry)
  const wanted = digest === undefined ? [`${proper}:${tag}`] : [`${proper}@${digest}`, `${pulled}@${digest}`]
  for (const name of wanted) {
    const id = await idOf(api, name, signal)
    if (id !== undefined) return id
  }
  await pull(api, pulled, digest ?? tag ?? 'latest', signal)
  const id = await idOf(api, digest === undefined ? `${pulled}:${tag}` : `${pulled}@${digest}`, signal)
  if (id === undefined) throw new ShoalError('NOT_FOUND', `docker has no ${reference} after it pulled it`)
  // A name that means another image here keeps its meaning.
  if (tag !== undefined && (await idOf(api, `${proper}:${tag}`, signal)) === undefined)
    await api(signal, (docker) => docker.getImage(id).tag({ repo: proper, tag }))
  return id
}

/** What an image is called properly, and below Shoal's registry. */
function namesOf(image: string, registry: string) {
  const reference = properName(image, registry)
  const { host, repository, tag, digest } = parseReference(reference)
  const proper = `${host}/${repository}`
  return { reference, proper, pulled: host === registry ? proper : `${registry}/${proper}`, tag, digest }
}

/** The name by which docker has what `pullImage` pulled. */
export function pulledName(image: string, registry: string): string {
  const { pulled, tag = 'latest', digest } = namesOf(image, registry)
  return digest === undefined ? `${pulled}:${tag}` : `${pulled}@${digest}`
}

/** Pulls an image through Shoal's registry, whatever docker has under its name. @throws RUNTIME | NOT_FOUND */
export async function pullImage(
  api: DockerApi,
  { image, registry, signal }: { image: string; registry: string; signal: AbortSignal },
): Promise<void> {
  const { pulled, tag = 'latest', digest } = namesOf(image, registry)
  await pull(api, pulled, digest ?? tag, signal)
}

export async function idOf(api: DockerApi, name: string, signal: AbortSignal): Promise<string | undefined> {
  try {
    return (await api(signal, (docker) => docker.getImage(name).inspect())).Id
  } catch (error) {
    if (isShoalError(error, 'NOT_FOUND')) return undefined
    throw error
  }
}

/** Answers with lines of JSON, and with an error among them where it fails after it has begun. */
async function pull(api: DockerApi, name: string, tag: string, signal: AbortSignal): Promise<void> {
  const create: Parameters<DockerApi>[1] = async (docker) => {
    const answer = await docker.createImage({ _query: { fromImage: name, tag }, _body: {} })
    let rest = ''
    for await (const part of answer.setEncoding('utf8')) {
      const lines = (rest + part).split('\n')
      rest = lines.pop() ?? ''
      for (const line of lines) {
        const { error } = JSON.parse(line || '{}') as { error?: string }
        if (error) throw new ShoalError('RUNTIME', `docker could not pull ${name}: ${error}`)
      }
    }
  }
  await api(signal, create, PULL_MS)
}
