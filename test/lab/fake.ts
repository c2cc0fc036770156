import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import {
  type FakeAuth,
  type FakeImage,
  type FakeRegistryOptions,
  type Fault,
  type ImageOptions,
  startFakeRegistry,
} from '../fakes/registry.ts'
import { inside } from './sh.ts'

/** A fault as it travels between processes: `path` is the source of the expression. */
export type WireFault = Omit<Fault, 'path'> & { path: string }

/** The misbehaving registry of test/fakes, as a process in the lab's cloud. */
export interface FakeUpstream {
  url: string
  addImage(options: ImageOptions): Promise<FakeImage>
  fault(fault: WireFault): Promise<void>
  clearFaults(): Promise<void>
  /** Body bytes of blobs and manifests since the last call. */
  sent(): Promise<number>
  /** Requests since the last call, as `METHOD PATH STATUS`. */
  requests(): Promise<string[]>
  setAuth(auth: FakeAuth | undefined): Promise<void>
  close(): void
}

type Question =
  | { op: 'image'; options: ImageOptions }
  | { op: 'fault'; fault: WireFault }
  | { op: 'clear' }
  | { op: 'sent' }
  | { op: 'requests' }
  | { op: 'auth'; auth?: FakeAuth }

export async function startFakeUpstream(
  netns: string,
  options: Omit<FakeRegistryOptions, 'contents'>,
): Promise<FakeUpstream> {
  const command = [process.execPath, fileURLToPath(import.meta.url), JSON.stringify(options)]
  const [file = '', ...args] = inside(netns, command)
  const child = spawn(file, args, { stdio: ['pipe', 'pipe', 'inherit'] })
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const read = async (): Promise<unknown> => {
    const { value, done } = await lines.next()
    if (done) throw new Error('the fake upstream ended')
    return JSON.parse(value)
  }
  // One question at a time: the answers come in the questions' order.
  let turn: Promise<unknown> = Promise.resolve()
  const ask = <T>(question: Question): Promise<T> => {
    const answer = turn.then(() => {
      child.stdin.write(`${JSON.stringify(question)}\n`)
      return read()
    })
    turn = answer.catch(() => {})
    return answer as Promise<T>
  }
  const { url } = (await read()) as { url: string }
  return {
    url,
    addImage: (image) => ask({ op: 'image', options: image }),
    fault: (fault) => ask({ op: 'fault', fault }),
    clearFaults: () => ask({ op: 'clear' }),
    sent: () => ask({ op: 'sent' }),
    requests: () => ask({ op: 'requests' }),
    setAuth: (auth) => ask(auth === undefined ? { op: 'auth' } : { op: 'auth', auth }),
    close: () => void child.kill('SIGKILL'),
  }
}

if (import.meta.main) {
  const registry = await startFakeRegistry(JSON.parse(process.argv[2] ?? '{}') as FakeRegistryOptions)
  let sent = 0
  const answer = (value: unknown) => process.stdout.write(`${JSON.stringify(value ?? null)}\n`)
  const act = (question: Question): unknown => {
    switch (question.op) {
      case 'image':
        return registry.addImage(question.options)
      case 'fault':
        return void registry.fault({ ...question.fault, path: new RegExp(question.fault.path) })
      case 'clear':
        return registry.clearFaults()
      case 'auth':
        return registry.setAuth(question.auth)
      case 'requests':
        return registry.requests.splice(0).map(({ method, url, status }) => `${method} ${url} ${status}`)
      case 'sent': {
        const total = registry.totalSent()
        const since = total - sent
        sent = total
        return since
      }
    }
  }
  answer({ url: registry.url })
  for await (const line of createInterface({ input: process.stdin }))
    answer(act(JSON.parse(line) as Question))
  await registry.close()
}
