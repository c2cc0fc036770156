import assert from 'node:assert/strict'
import { z } from 'zod'
import { openApiDocument } from '../../cli/api/openapi.ts'

export interface Answer {
  status: number
  headers: Record<string, string | string[] | undefined>
  text: string
}

interface Described {
  paths: Record<
    string,
    Record<string, { responses: Record<string, { content?: Record<string, { schema: object }> }> }>
  >
  components: { schemas: Record<string, unknown> }
}
export const document = openApiDocument('1.2.3') as unknown as Described

/** Holds an answer against what the document says about it. */
export function assertDescribed(method: string, path: string, answer: Answer): void {
  const operation = document.paths[path]?.[method]
  assert.ok(operation, `${method} ${path} is not described`)
  const described = operation.responses[String(answer.status)]
  assert.ok(described, `${method} ${path} answered ${answer.status}, which is not described`)
  if (!described.content) {
    assert.equal(answer.text, '')
    return
  }
  const type = String(answer.headers['content-type']).split(';')[0]!
  const media = described.content[type]
  assert.ok(media, `${method} ${path} answered ${type}, which is not described`)
  if (!type.endsWith('json')) return
  const schema = z.fromJSONSchema({
    ...media.schema,
    $defs: document.components.schemas,
  } as Parameters<typeof z.fromJSONSchema>[0])
  schema.parse(JSON.parse(answer.text))
}

// zod resolves references below $defs only.
const rename = (value: unknown): unknown =>
  JSON.parse(JSON.stringify(value).replaceAll('#/components/schemas/', '#/$defs/'))
Object.assign(document, rename(document))
