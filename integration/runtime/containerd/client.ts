import { fileURLToPath } from 'node:url'
import { credentials, Metadata, makeGenericClientConstructor, type ServiceError, status } from '@grpc/grpc-js'
import {
  loadSync,
  type MessageTypeDefinition,
  type PackageDefinition,
  type ServiceDefinition,
} from '@grpc/proto-loader'
import { ShoalError } from '../../../base/index.ts'
import { aborted } from '../run.ts'
import type { Any, CallOptions, CheckpointOptions, ContainerdApi, RuncOptions } from './api.ts'

const SERVICES: Record<keyof ContainerdApi, string> = {
  containers: 'containerd.services.containers.v1.Containers',
  tasks: 'containerd.services.tasks.v1.Tasks',
  images: 'containerd.services.images.v1.Images',
  content: 'containerd.services.content.v1.Content',
  snapshots: 'containerd.services.snapshots.v1.Snapshots',
  events: 'containerd.services.events.v1.Events',
  introspection: 'containerd.services.introspection.v1.Introspection',
  version: 'containerd.services.version.v1.Version',
  cri: 'runtime.v1.RuntimeService',
}
const FILES = [...Object.keys(SERVICES), 'runc'].map((name) => `${name}.proto`)
const CALL_MS = 60_000
/** How long a containerd that was away is waited for: a little longer than the pause between two tries. */
const READY_MS = 1500
/** A manifest or a list of very many containers; images' layers do not come this way. */
const MESSAGE_BYTES = 64 * 2 ** 20

/** Messages that travel inside of an `Any`, by their names on the wire. */
export interface Wrapped {
  'containerd.runc.v1.Options': RuncOptions
  'containerd.runc.v1.CheckpointOptions': CheckpointOptions
}

export interface ContainerdClient extends ContainerdApi {
  readonly address: string
  readonly namespace: string
  close(): void
}

export interface ClientOptions {
  /** Path of its socket. */
  address: string
  /** containerd's own, which has nothing to do with the kernel's. Default `default`. */
  namespace?: string
}

let definitions: PackageDefinition | undefined

/** Read when first used: a daemon without containerd never does. */
function definition(): PackageDefinition {
  definitions ??= loadSync(FILES, {
    includeDirs: [fileURLToPath(new URL('./proto', import.meta.url))],
    longs: Number,
    enums: String,
    defaults: true,
  })
  return definitions
}

/**
 * Speaks to containerd's socket. Nothing is opened before the first call; a connection that breaks is made anew by the next
 * call, so that a client outlives containerd's restarts.
 */
export function connectContainerd({ address, namespace = 'default' }: ClientOptions): ContainerdClient {
  const all = definition()
  // One connection for all: which methods there are, each call says.
  const Client = makeGenericClientConstructor({}, 'containerd')
  const client = new Client(`unix:${address}`, credentials.createInsecure(), {
    'grpc.initial_reconnect_backoff_ms': 100,
    'grpc.max_reconnect_backoff_ms': 1000,
    'grpc.max_receive_message_length': MESSAGE_BYTES,
  })

  const metadata = new Metadata()
  metadata.set('containerd-namespace', namespace)

  type Method = ServiceDefinition[string]

  function once(method: Method, request: object, options: CallOptions): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const { signal, timeoutMs = CALL_MS } = options
      if (signal.aborted) return reject(aborted(signal))
      const deadline = timeoutMs === 0 ? {} : { deadline: Date.now() + timeoutMs }
      const call = client.makeUnaryRequest(
        method.path,
        method.requestSerialize,
        method.responseDeserialize,
        request,
        metadata.clone(),
        deadline,
        (error, response) => {
          signal.removeEventListener('abort', abort)
          if (error) reject(signal.aborted ? aborted(signal) : error)
          else resolve(response)
        },
      )
      // Rejects at once: what containerd makes of a cancelled call may take its time.
      const abort = (): void => {
        call.cancel()
        reject(aborted(signal))
      }
      signal.addEventListener('abort', abort, { once: true })
    })
  }

  const ready = (): Promise<boolean> =>
    new Promise((resolve) => client.waitForReady(Date.now() + READY_MS, (error) => resolve(!error)))

  const unary =
    (method: Method) =>
    async (request: object, options: CallOptions): Promise<unknown> => {
      try {
        try {
          return await once(method, request, options)
        } catch (error) {
          // It was not sent: containerd may be back already, and only the next try to connect be still to come.
          if (!isUnsent(error) || !(await ready())) throw error
          return await once(method, request, options)
        }
      } catch (error) {
        throw error instanceof ShoalError ? error : mapped(error as ServiceError, address, method.path)
      }
    }

  const streaming = (method: Method) =>
    async function* (request: object, options: CallOptions): AsyncGenerator<unknown> {
      const { signal } = options
      if (signal.aborted) throw aborted(signal)
      const call = client.makeServerStreamRequest(
        method.path,
        method.requestSerialize,
        method.responseDeserialize,
        request,
        metadata.clone(),
      )
      const abort = (): void => call.cancel()
      signal.addEventListener('abort', abort, { once: true })
      try {
        yield* call
      } catch (error) {
        throw signal.aborted ? aborted(signal) : mapped(error as ServiceError, address, method.path)
      } finally {
        signal.removeEventListener('abort', abort)
        call.on('error', () => {})
        call.cancel()
      }
    }

  const services = Object.entries(SERVICES).map(([name, path]) => {
    const methods = Object.values(all[path] as ServiceDefinition).map((method) => [
      method.originalName ?? '',
      method.responseStream ? streaming(method) : unary(method),
    ])
    return [name, Object.fromEntries(methods)]
  })
  return {
    ...(Object.fromEntries(services) as ContainerdApi),
    address,
    namespace,
    close: () => client.close(),
  }
}

export function wrap<Name extends keyof Wrapped>(name: Name, message: Partial<Wrapped[Name]>): Any {
  return {
    type_url: name,
    value: (definition()[name] as MessageTypeDefinition<object, object>).serialize(message),
  }
}

/** Undefined when there is something else in it. */
export function unwrap<Name extends keyof Wrapped>(name: Name, any: Any | null): Wrapped[Name] | undefined {
  if (any?.type_url.split('/').at(-1) !== name) return undefined
  const type = definition()[name] as MessageTypeDefinition<object, object>
  return type.deserialize(Buffer.from(any.value)) as Wrapped[Name]
}

/** Specs go as JSON in an `Any`. */
export function wrapJson(name: 'Spec' | 'Process', value: object): Any {
  const type_url = `types.containerd.io/opencontainers/runtime-spec/1/${name}`
  return { type_url, value: Buffer.from(JSON.stringify(value)) }
}

function isUnsent(error: unknown): boolean {
  const { code, details } = error as ServiceError
  return code === status.UNAVAILABLE && details.startsWith('No connection established')
}

function mapped(error: ServiceError, address: string, path: string): ShoalError {
  const said = error.details || error.message
  const details = { address, path, grpc: status[error.code] }
  const make = (code: ConstructorParameters<typeof ShoalError>[0], message: string): ShoalError =>
    new ShoalError(code, message, { cause: error, details })
  switch (error.code) {
    case status.NOT_FOUND:
      return make('NOT_FOUND', said)
    case status.ALREADY_EXISTS:
      return make('BUSY', said)
    case status.UNIMPLEMENTED:
      return make('UNFIT', `containerd cannot do this: ${said}`)
    case status.DEADLINE_EXCEEDED:
      return make('TIMEOUT', `containerd did not answer in time: ${path}`)
    case status.UNAVAILABLE:
      return make('RUNTIME', `containerd does not answer at ${address}: ${said}`)
    default:
      return make('RUNTIME', said)
  }
}
