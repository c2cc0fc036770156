import { answer, COMMON, changing, json, type Operation, problem, read } from './openapi-parts.ts'
import { list, ref, type Schema } from './schemas.ts'

const id: Schema = { name: 'id', in: 'path', required: true, schema: { type: 'string' } }

export const MIGRATION_PATHS: Record<string, Record<string, Operation>> = {
  '/api/v1/migrations': {
    get: read(
      'Migrations from and to this node, under way and past',
      'the migrations, the oldest first',
      list(ref('Migration')),
    ),
    post: changing({
      summary: 'Move a running container to another node',
      requestBody: { required: true, content: json(ref('MigrationRequest')) },
      responses: {
        '202': {
          ...answer('it is in the journal, and under way', ref('Migration')),
          headers: { Location: { description: 'path of the migration', schema: { type: 'string' } } },
        },
        '400': problem('the body is no such request, or several runtimes have a container of this name'),
        '404': problem('no such container, runtime or node'),
        '409': problem('it does not run, is moving already, or is on that node'),
        '413': problem('the body is too large'),
        '415': problem('the body is not JSON'),
        '502': problem('the runtime does not answer'),
      },
    }),
  },
  '/api/v1/migrations/{id}': {
    get: {
      summary: 'One migration',
      parameters: [id],
      responses: {
        '200': answer('as it stands', ref('Migration')),
        '404': problem('no such migration'),
        ...COMMON,
      },
    },
  },
  '/api/v1/migrations/{id}/cancel': {
    post: changing({
      summary: 'Call a migration off before the container is frozen; it ends as called-off',
      parameters: [id],
      responses: {
        '200': answer('the migration, which is about to end', ref('Migration')),
        '404': problem('no such migration'),
        '409': problem('the container is frozen already, it has ended, or this node is not its source'),
      },
    }),
  },
  '/api/v1/migrations/{id}/decide': {
    post: changing({
      summary: 'Say which side is to run, where the nodes cannot find out',
      parameters: [id],
      requestBody: { required: true, content: json(ref('Decision')) },
      responses: {
        '200': answer('the migration', ref('Migration')),
        '400': problem('the side is neither source nor target'),
        '404': problem('no such migration'),
        '409': problem('there is nothing to decide on this node'),
      },
    }),
  },
  '/api/v1/drain': {
    post: changing({
      summary: 'Move every running container to other nodes; ends when all are gone or named',
      responses: {
        '200': answer('what was moved, and what is left and why', ref('Drained')),
        '409': problem('this node is being drained already'),
      },
    }),
  },
}
