import { setTimeout as sleep } from 'node:timers/promises'

/** What many devices are to do, each with its own token; the application of each is named after it. */
export interface DevicesOrder {
  base: string
  /** Device to token. */
  tokens: Record<string, string>
  pod: Record<string, unknown>
  /** `run`: have an application running, whatever becomes of the server meanwhile; `delete`: have none. */
  verb: 'run' | 'delete'
  withinMs: number
}

export interface DeviceReport {
  device: string
  id: string
  referenceURI?: string
  /** What is at that address. */
  page?: string
  /** ms, from the first request on. */
  tookMs: number
}

interface Shown {
  id: string
  name: string
  state: string
  pods: { referenceURI?: string; reason?: string }[]
}

const AGAIN_MS = 500

/** One device. What breaks off is asked again: it then looks first what has become of its request. */
function createDevice(name: string, { base, tokens, pod, withinMs }: DevicesOrder) {
  const until = AbortSignal.timeout(withinMs)
  const headers = { authorization: `Bearer ${tokens[name]}`, 'content-type': 'application/json' }

  const ask = (method: string, path: string, body?: unknown): Promise<Response> =>
    fetch(`${base}${path}`, {
      method,
      headers,
      signal: until,
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })

  async function answer<T>(wanted: number, method: string, path: string, body?: unknown): Promise<T> {
    const response = await ask(method, path, body)
    const text = await response.text()
    if (response.status !== wanted) throw new Error(`${method} ${path}: ${response.status} ${text}`)
    return (text === '' ? undefined : JSON.parse(text)) as T
  }

  async function patiently<T>(work: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await work()
      } catch (error) {
        if (until.aborted) throw error
        await sleep(AGAIN_MS)
      }
    }
  }

  const mine = async (): Promise<Shown | undefined> => (await answer<Shown[]>(200, 'GET', '/mec/v1/apps'))[0]

  /** Listens until it runs, or the connection breaks. */
  async function running(id: string): Promise<Shown> {
    const response = await ask('GET', `/mec/v1/apps/${id}/events`)
    let text = ''
    for await (const part of response.body!.pipeThrough(new TextDecoderStream())) {
      const lines = (text + part).split('\n')
      text = lines.pop() ?? ''
      for (const line of lines) {
        if (!line.startsWith('data:')) continue
        const app = JSON.parse(line.slice(5)) as Shown
        if (app.state === 'running') return app
      }
    }
    throw new Error('the events broke off')
  }

  async function run(): Promise<Shown> {
    const pods = [{ ...pod, env: { NAME: name } }]
    const { id } = (await mine()) ?? (await answer<Shown>(201, 'POST', '/mec/v1/apps', { name, pods }))
    await answer(202, 'POST', `/mec/v1/apps/${id}/offload`)
    return running(id)
  }

  return {
    async run(): Promise<DeviceReport> {
      const from = performance.now()
      const { id, pods } = await patiently(run)
      const tookMs = performance.now() - from
      const referenceURI = pods[0]!.referenceURI!
      const page = await patiently(async () => (await fetch(referenceURI, { signal: until })).text())
      return { device: name, id, referenceURI, page: page.trim(), tookMs }
    },
    async delete(): Promise<DeviceReport> {
      const from = performance.now()
      const id = await patiently(async () => {
        const app = await mine()
        if (app !== undefined) await answer(204, 'DELETE', `/mec/v1/apps/${app.id}`)
        return app?.id ?? ''
      })
      return { device: name, id, tookMs: performance.now() - from }
    },
  }
}

/** Devices all at once: reads a DevicesOrder from stdin, prints a DeviceReport of each as a line of JSON. */
if (import.meta.main) {
  const chunks: Buffer[] = []
  for await (const chunk of process.stdin) chunks.push(chunk)
  const order = JSON.parse(Buffer.concat(chunks).toString()) as DevicesOrder
  await Promise.all(
    Object.keys(order.tokens).map(async (name) => {
      const report = await createDevice(name, order)[order.verb]()
      process.stdout.write(`${JSON.stringify(report)}\n`)
    }),
  )
}
