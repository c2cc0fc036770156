import { CHECKPOINT_PATHS, CHECKPOINT_SCHEMAS } from './openapi-checkpoints.ts'
import { MIGRATION_PATHS } from './openapi-migrations.ts'
import { answer, COMMON, changing, json, type Operation, problem, read } from './openapi-parts.ts'
import { list, ref, SCHEMAS, type Schema } from './schemas.ts'

const nameParameter: Schema = {
  name: 'name',
  in: 'path',
  required: true,
  description: 'as it was stored, with its slashes escaped',
  schema: { type: 'string' },
}
const pullId: Schema = { name: 'id', in: 'path', required: true, schema: { type: 'string' } }

const PATHS: Record<string, Record<string, Operation>> = {
  '/api/v1/status': { get: read('This node', 'as it stands', ref('Status')) },
  '/api/v1/peers': { get: read('The other nodes, as this one sees them', 'the peers', list(ref('Peer'))) },
  '/api/v1/tasks': { get: read('Blobs under way, and the last ones', 'the tasks', list(ref('Task'))) },
  '/api/v1/images': {
    get: read(
      'Images of which this node has the manifest, or that the site stores',
      'the images',
      list(ref('Image')),
    ),
    post: changing({
      summary: 'Pull an image into the store',
      requestBody: { required: true, content: json(ref('PullRequest')) },
      responses: {
        '202': {
          ...answer('the pull has begun', ref('Pull')),
          headers: { Location: { description: 'path of the pull', schema: { type: 'string' } } },
        },
        '400': problem('no such reference or platform'),
        '413': problem('the body is too large'),
        '415': problem('the body is not JSON'),
        '429': problem('too many pulls are under way'),
      },
    }),
  },
  '/api/v1/local': {
    get: {
      summary: 'What was pushed to the local repository: tags, with the writes that they beat, and manifests',
      parameters: [
        {
          name: 'repository',
          in: 'query',
          description: 'only this one: local/NAME',
          schema: { type: 'string' },
        },
      ],
      responses: {
        '200': answer('the repositories', list(ref('LocalRepository'))),
        '404': problem('no such repository'),
        ...COMMON,
      },
    },
  },
  '/api/v1/pulls': { get: read('Pulls under way, and the last ones', 'the pulls', list(ref('Pull'))) },
  '/api/v1/pulls/{id}': {
    get: {
      summary: 'One pull',
      parameters: [pullId],
      responses: { '200': answer('as it stands', ref('Pull')), '404': problem('no such pull'), ...COMMON },
    },
    delete: changing({
      summary: 'Cancel a pull; a finished one stays as it is',
      parameters: [pullId],
      responses: { '204': { description: 'it is cancelled' }, '404': problem('no such pull') },
    }),
  },
  '/api/v1/stored': {
    get: read('Images that the site stores', 'the images, and where their bytes are', list(ref('Stored'))),
    post: changing({
      summary: 'Store an image in the site',
      requestBody: { required: true, content: json(ref('StoreRequest')) },
      responses: {
        '202': {
          ...answer('the storing has begun', ref('Storing')),
          headers: { Location: { description: 'path of the storing', schema: { type: 'string' } } },
        },
        '400': problem('no such reference, platform or number of copies'),
        '413': problem('the body is too large'),
        '415': problem('the body is not JSON'),
        '429': problem('too many storings are under way'),
      },
    }),
  },
  '/api/v1/stored/{name}': {
    delete: changing({
      summary: 'Store an image no longer: what is kept of it becomes cache',
      parameters: [nameParameter],
      responses: {
        '204': { description: 'it is not stored any longer' },
        '400': problem('no name of an image'),
        '404': problem('it was not stored'),
      },
    }),
  },
  '/api/v1/storings': {
    get: read('Storings under way, and the last ones', 'the storings', list(ref('Storing'))),
  },
  '/api/v1/storings/{id}': {
    get: {
      summary: 'One storing',
      parameters: [pullId],
      responses: {
        '200': answer('as it stands', ref('Storing')),
        '404': problem('no such storing'),
        ...COMMON,
      },
    },
    delete: changing({
      summary: 'Cancel a storing; a finished one stays as it is',
      parameters: [pullId],
      responses: { '204': { description: 'it is cancelled' }, '404': problem('no such storing') },
    }),
  },
  '/api/v1/repair': {
    post: changing({
      summary: 'Make again what copies of stored images are missing',
      requestBody: { required: false, content: json(ref('RepairRequest')) },
      responses: { '200': answer('what was done', ref('Repaired')), '400': problem('a bad body') },
    }),
  },
  '/api/v1/gc': {
    post: changing({
      summary:
        "Evict the least recently used until the quota's low watermark and the floor of free space hold",
      requestBody: { required: false, content: json(ref('CollectRequest')) },
      responses: {
        '200': answer('what was evicted', ref('Collected')),
        '400': problem('the body is no such request'),
      },
    }),
  },
  '/api/v1/scrub': {
    get: read('The scrub that goes on, or the last one', 'as it stands', ref('Scrub')),
    post: changing({
      summary: 'Read and verify every block of the store; what is bad is fetched again',
      requestBody: { required: false, content: json(ref('ScrubRequest')) },
      responses: {
        '202': {
          ...answer('the scrub has begun', ref('Scrub')),
          headers: { Location: { description: 'path of the scrub', schema: { type: 'string' } } },
        },
        '400': problem('no such rate'),
        '409': problem('a scrub goes on already'),
      },
    }),
    delete: changing({
      summary: 'Cancel the scrub',
      responses: { '204': { description: 'it is cancelled' }, '404': problem('none goes on') },
    }),
  },
  '/api/v1/pins': {
    post: changing({
      summary: 'Keep an image that is here, as it is now, from being evicted',
      requestBody: { required: true, content: json(ref('PinRequest')) },
      responses: {
        '200': answer('the image', ref('Image')),
        '400': problem('no such reference'),
        '404': problem('it is not here'),
      },
    }),
    delete: changing({
      summary: 'Let it be evicted again',
      parameters: [{ name: 'reference', in: 'query', required: true, schema: { type: 'string' } }],
      responses: {
        '204': { description: 'it is not pinned any more' },
        '400': problem('no such reference'),
        '404': problem('it is not pinned'),
      },
    }),
  },
  ...CHECKPOINT_PATHS,
  ...MIGRATION_PATHS,
  '/api/v1/mec/tokens': {
    get: read('Tokens of devices, without their secrets', 'the tokens', list(ref('MecToken'))),
    post: changing({
      summary: 'Make a token for a device',
      requestBody: { required: true, content: json(ref('MecTokenRequest')) },
      responses: {
        '201': answer('the token', ref('MecTokenMade')),
        '400': problem('no name of a device, or no MEC API here'),
        '413': problem('the body is too large'),
        '415': problem('the body is not JSON'),
      },
    }),
  },
  '/api/v1/mec/tokens/{id}': {
    delete: changing({
      summary: "Revoke a token, or all of a device's",
      parameters: [pullId],
      responses: {
        '200': answer('how many there were', ref('MecRevoked')),
        '400': problem('no MEC API here'),
        '404': problem('there is none'),
      },
    }),
  },
  '/api/v1/mec/apps': {
    get: read('Applications that the site offers to devices', 'the applications', list(ref('MecApp'))),
    post: changing({
      summary: 'Offer one, or replace the one with the same identifier',
      requestBody: { required: true, content: json(ref('MecAppRequest')) },
      responses: {
        '201': answer('as it is offered', ref('MecApp')),
        '400': problem('no such description, or no MEC API here'),
        '413': problem('the body is too large'),
        '415': problem('the body is not JSON'),
      },
    }),
  },
  '/api/v1/mec/apps/{id}': {
    delete: changing({
      summary: 'Offer it no longer',
      parameters: [pullId],
      responses: {
        '204': { description: 'it is not offered any more' },
        '400': problem('no MEC API here'),
        '404': problem('it was not offered'),
      },
    }),
  },
  '/api/v1/events': {
    get: {
      summary: 'What happens, as server-sent events',
      parameters: [
        {
          name: 'types',
          in: 'query',
          description:
            'of task, members, pull, scrub, storing, checkpoint, migration, separated by commas; default all',
          schema: { type: 'string' },
        },
      ],
      responses: {
        '200': {
          description:
            'First all as it is, then the changes. `task` carries a Task, `members` a list of Member, `pull` a Pull, `scrub` a Scrub, `storing` a Storing, `checkpoint` a CheckpointJob, `migration` a Migration. A reader that does not keep up is dropped and sees all anew when it comes back.',
          content: { 'text/event-stream': { schema: { type: 'string' } } },
        },
        '400': problem('unknown type'),
        '429': problem('too many readers'),
        ...COMMON,
      },
    },
  },
  '/openapi.json': { get: read('This document', 'OpenAPI 3.1', { type: 'object' }) },
  '/metrics': {
    get: {
      summary: 'Metrics in the Prometheus text form',
      responses: {
        '200': { description: 'the metrics', content: { 'text/plain': { schema: { type: 'string' } } } },
        ...COMMON,
      },
    },
  },
  '/healthz': { get: read('Is the process alive', 'it is', ref('Health')) },
  '/readyz': {
    get: {
      summary: 'Can the node serve pulls',
      responses: { '200': answer('it can', ref('Ready')), '503': answer('not yet', ref('Ready')) },
    },
  },
}

/** The API's description, OpenAPI 3.1. */
export function openApiDocument(version: string): Record<string, unknown> {
  return {
    openapi: '3.1.0',
    info: {
      title: 'Shoal management API',
      version,
      description:
        'What changes state needs the token of the node, unless it comes over loopback and not out of a foreign page.',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    paths: PATHS,
    components: {
      schemas: { ...SCHEMAS, ...CHECKPOINT_SCHEMAS },
      securitySchemes: { token: { type: 'http', scheme: 'bearer' } },
    },
  }
}
