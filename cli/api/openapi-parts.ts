import { ref, type Schema } from './schemas.ts'

type Content = Record<string, { schema: Schema }>

export const json = (schema: Schema): Content => ({ 'application/json': { schema } })
export const answer = (description: string, schema: Schema): Schema => ({
  description,
  content: json(schema),
})
export const problem = (description: string): Schema => ({
  description,
  content: { 'application/problem+json': { schema: ref('Problem') } },
})

/** What any request may be answered with besides its own. */
export const COMMON = {
  '503': problem('the daemon is starting or stopping'),
  '500': problem('the daemon failed'),
}
/** What a request that changes state may be answered with. */
const GUARDED = {
  '401': problem('the bearer token is missing or wrong'),
  '403': problem('the request comes out of a foreign page'),
}

export interface Operation {
  summary: string
  responses: Record<string, Schema>
  parameters?: Schema[]
  requestBody?: Schema
  security?: Schema[]
}

export const read = (summary: string, description: string, schema: Schema): Operation => ({
  summary,
  responses: { '200': answer(description, schema), ...COMMON },
})

/** Loopback needs no token, so that the empty requirement stands beside it. */
export const changing = (operation: Operation): Operation => ({
  ...operation,
  security: [{ token: [] }, {}],
  responses: { ...operation.responses, ...GUARDED, ...COMMON },
})
