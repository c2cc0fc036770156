import { ShoalError } from '../../base/index.ts'
import type { PeerId, Rpc, RpcHandler } from '../../manager/index.ts'

/** Offload's requests between nodes; one to this very node does not leave it. */
export interface Talk {
  readonly self: PeerId
  /** `body` may be of another node: the handler checks its shape. */
  handle(method: string, handler: RpcHandler): void
  /** The first request for one of these methods has `load` give their handlers. */
  lazily(methods: string[], load: () => Promise<unknown>): void
  /** @throws PEER_GONE | TIMEOUT | what the handler throws */
  ask(
    peer: PeerId,
    method: string,
    body: unknown,
    options: { signal?: AbortSignal; timeoutMs: number },
  ): Promise<unknown>
}

export function createTalk({ self, rpc }: { self: PeerId; rpc: Rpc }): Talk {
  const own = new Map<string, RpcHandler>()
  function handle(method: string, handler: RpcHandler): void {
    if (!own.has(method)) {
      rpc.handle(`offload.${method}`, (peer, body, signal) => own.get(method)!(peer, body, signal))
    }
    own.set(method, handler)
  }

  return {
    self,
    handle,
    lazily(methods, load) {
      for (const method of methods) {
        const first: RpcHandler = async (peer, body, signal) => {
          await load()
          const handler = own.get(method)
          if (handler === undefined || handler === first)
            throw new ShoalError('UNFIT', 'no runtime answers here')
          return handler(peer, body, signal)
        }
        handle(method, first)
      }
    },
    async ask(peer, method, body, { signal, timeoutMs }) {
      if (peer !== self) {
        const options = signal === undefined ? { timeoutMs } : { timeoutMs, signal }
        return rpc.request(peer, `offload.${method}`, body, options)
      }
      const handler = own.get(method)
      if (handler === undefined) throw new ShoalError('PROTOCOL', `this node does not answer ${method}`)
      const limit = AbortSignal.timeout(timeoutMs)
      const both = signal === undefined ? limit : AbortSignal.any([signal, limit])
      const late = new Promise<never>((_, reject) => {
        both.addEventListener('abort', () => {
          reject(new ShoalError(limit.aborted ? 'TIMEOUT' : 'ABORTED', `${method} was not answered in time`))
        })
      })
      return Promise.race([handler(self, body, both), late])
    },
  }
}
