import { Agent } from 'node:http'
import { connect, type NetConnectOpts } from 'node:net'
import Docker from 'dockerode'
import { isShoalError, ShoalError } from '../../../base/index.ts'
import { aborted } from '../run.ts'

// What its types leave out.
declare module 'dockerode' {
  interface DockerOptions {
    agent?: Agent
  }
  /** What goes into the address and what into the body: else all of it goes into both. */
  interface ContainerCreateOptions {
    _query?: object
    _body?: object
  }
  interface ContainerStartOptions {
    _query?: object
    _body?: object
  }
  interface ContainerInspectOptions {
    size?: boolean
  }
  interface Container {
    createCheckpoint(options: { CheckpointID: string; Exit: boolean }): Promise<unknown>
  }
}

/**
 * One call of dockerode's: bounded in time (a minute unless told), and its errors are ours.
 * @throws NOT_FOUND (404) | BUSY (409) | RUNTIME | TIMEOUT | ABORTED
 */
export type DockerApi = <T>(
  signal: AbortSignal,
  call: (docker: Docker) => Promise<T>,
  timeoutMs?: number,
) => Promise<T>

const TIMEOUT_MS = 60_000
/** For an answer that is complete, from the end of its connection. */
const SETTLE_MS = 100

/** Without a version in the path the daemon speaks its own newest one, so there is none to agree on. */
export function createDockerApi(socketPath: string): DockerApi {
  return async (signal, call, timeoutMs = TIMEOUT_MS) => {
    if (signal.aborted) throw aborted(signal)
    const late = AbortSignal.timeout(timeoutMs)
    const ended = Promise.withResolvers<never>()
    ended.promise.catch(() => {})
    const onEnd = (): void => ended.reject(new Error('its answer was cut off'))
    const either = AbortSignal.any([signal, late])
    either.addEventListener('abort', onEnd, { once: true })
    try {
      const docker = createDocker(socketPath, either, onEnd)
      const answer = await Promise.race([call(docker), ended.promise])
      // Bytes are what it makes of a body that is no JSON, and of none.
      if (Buffer.isBuffer(answer) && answer.length > 0) throw new Error('its answer is no JSON')
      return answer
    } catch (error) {
      if (signal.aborted) throw aborted(signal)
      if (late.aborted)
        throw new ShoalError('TIMEOUT', `docker did not answer within ${timeoutMs / 1000} s`, {
          cause: error,
        })
      throw isShoalError(error) ? error : explain(error as Refusal, socketPath)
    }
  }
}

/**
 * With a connection of its own, by which each of dockerode's calls ends when the signal comes: not all of them take one. `onEnd` when the
 * connection has ended for a while: dockerode would wait for ever for the rest of an answer that was cut off.
 */
function createDocker(socketPath: string, signal: AbortSignal, onEnd: () => void): Docker {
  const agent = new Agent()
  agent.createConnection = (options) =>
    connect({ ...(options as NetConnectOpts), signal }).once('close', () =>
      setTimeout(onEnd, SETTLE_MS).unref(),
    )
  // It would go where DOCKER_HOST says, whatever the socket.
  return new Docker({ socketPath, host: undefined, protocol: 'http', agent })
}

/** What dockerode throws; the status is of an answer that docker gave. */
type Refusal = Error & { statusCode?: number }

function explain(error: Refusal, socketPath: string): ShoalError {
  const { statusCode, message } = error
  if (statusCode === undefined)
    return new ShoalError('RUNTIME', `docker does not answer at ${socketPath}: ${message}`, { cause: error })
  const said = message.replace(/^\(HTTP code \d+\) .*? - /, '').trim()
  const code = statusCode === 404 ? 'NOT_FOUND' : statusCode === 409 ? 'BUSY' : 'RUNTIME'
  return new ShoalError(code, `docker: ${said.slice(0, 600) || `status ${statusCode}`}`, {
    cause: error,
    details: { statusCode },
  })
}
