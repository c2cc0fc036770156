export { BLOCKS_PROTOCOL, createExchange, type ExchangeLimits, type OpenExchange } from './exchange.ts'
export { createRpc, type OpenRpc, RPC_PROTOCOL, type RpcLimits } from './rpc.ts'
export type { WireNode } from './streams.ts'
export type { Provide } from './uploads.ts'
