import { answer, COMMON, changing, json, type Operation, problem, read } from './openapi-parts.ts'
import { count, digest, list, object, oneOf, ref, type Schema, text, time } from './schemas.ts'

const parameter = (name: string, description: string): Schema => ({
  name,
  in: 'path',
  required: true,
  description,
  schema: { type: 'string' },
})
const REFERENCE = parameter('reference', 'NAME (the newest), NAME:VERSION or NAME@DIGEST')
const ID = parameter('id', 'of the job')
const begun = {
  ...answer('it has begun', ref('CheckpointJob')),
  headers: { Location: { description: 'path of the job', schema: { type: 'string' } } },
}
const BODY = {
  '400': problem('the body is no such request'),
  '413': problem('the body is too large'),
  '415': problem('the body is not JSON'),
}

export const CHECKPOINT_PATHS: Record<string, Record<string, Operation>> = {
  '/api/v1/checkpoints': {
    get: read('Checkpoints of the cluster', 'by name and version', list(ref('Checkpoint'))),
    post: changing({
      summary: 'Checkpoint a container',
      requestBody: { required: true, content: json(ref('CheckpointRequest')) },
      responses: { '202': begun, ...BODY, '429': problem('too many jobs are under way') },
    }),
  },
  '/api/v1/checkpoints/{reference}': {
    get: {
      summary: 'One checkpoint, and what it needs of a machine',
      parameters: [REFERENCE],
      responses: {
        '200': answer('the checkpoint', ref('CheckpointDetails')),
        '400': problem('no name of a checkpoint'),
        '403': problem('it is not to be trusted'),
        '404': problem('there is none'),
        ...COMMON,
      },
    },
    delete: changing({
      summary: 'Remove one version, or all where none is named',
      parameters: [REFERENCE],
      responses: {
        '200': answer('how many were removed', object({ removed: count() })),
        '400': problem('no name of a checkpoint'),
        '404': problem('there is none'),
      },
    }),
  },
  '/api/v1/restores': {
    post: changing({
      summary: 'Restore a checkpoint on this node',
      requestBody: { required: true, content: json(ref('RestoreRequest')) },
      responses: { '202': begun, ...BODY, '429': problem('too many jobs are under way') },
    }),
  },
  '/api/v1/checkpoint-jobs': {
    get: read(
      'Checkpoints that are being made or restored, and the last ones',
      'the jobs',
      list(ref('CheckpointJob')),
    ),
  },
  '/api/v1/checkpoint-jobs/{id}': {
    get: {
      summary: 'One job',
      parameters: [ID],
      responses: {
        '200': answer('as it stands', ref('CheckpointJob')),
        '404': problem('no such job'),
        ...COMMON,
      },
    },
    delete: changing({
      summary: 'Cancel a job: the container is as it was, and nothing is left',
      parameters: [ID],
      responses: { '204': { description: 'it is cancelled' }, '404': problem('no such job') },
    }),
  },
  '/api/v1/checkpoint-plans': {
    get: read(
      'Containers of this node that are checkpointed every so often',
      'the plans',
      list(ref('CheckpointPlan')),
    ),
    post: changing({
      summary: 'Checkpoint a container every so often, beginning now',
      requestBody: { required: true, content: json(ref('CheckpointPlanRequest')) },
      responses: {
        '201': answer('the plan', ref('CheckpointPlan')),
        ...BODY,
        '404': problem('no such container, runtime or node'),
        '502': problem('the runtime does not answer'),
      },
    }),
  },
  '/api/v1/checkpoint-plans/{name}': {
    delete: changing({
      summary: 'Make no more of them; what was made stays',
      parameters: [parameter('name', 'of the checkpoint')],
      responses: {
        '204': { description: 'the plan is taken back' },
        '404': problem('there is no such plan'),
      },
    }),
  },
}

const runtime = oneOf('containerd', 'docker', 'runc')
const nodes = { ...list(text()), minItems: 1, maxItems: 64 }
const ms: Schema = { type: 'integer', minimum: 1 }
const checkpoint = {
  name: text(),
  version: count(),
  digest: { ...digest, description: 'of its OCI index' },
  recipe: { ...digest, description: 'of its state' },
  container: object({
    name: text(),
    runtime: text(),
    'image?': object({ reference: text(), 'digest?': digest }),
  }),
  node: text('peer ID of the node that made and signed it'),
  site: text('where its blobs are stored'),
  createdAt: time,
  'expiresAt?': time,
  size: count('bytes of the state'),
  added: count('bytes that this version added to the swarm'),
  copies: count(),
  'sealedFor?': {
    ...list(text()),
    description: 'peer IDs of the nodes that can open it; absent: all of the cluster',
  },
}
const common = {
  'name?': text("of the checkpoint; default the container's"),
  'runtime?': runtime,
  'copies?': { type: 'integer', minimum: 1, maximum: 1024 },
  'encryptFor?': { ...nodes, description: 'names or peer IDs: only these nodes can open it' },
}

export const CHECKPOINT_SCHEMAS: Record<string, Schema> = {
  Checkpoint: object(checkpoint),
  CheckpointDetails: object({
    ...checkpoint,
    needs: object({
      arch: text(),
      kernel: text(),
      cpu: list(text()),
      criu: text(),
      oci: object({ name: text(), version: text() }),
      cgroups: oneOf('v1', 'v2', 'hybrid'),
    }),
    'demands?': {
      ...object({
        mounts: list(text('source')),
        devices: list(text()),
        namespaces: list(text('path')),
        ports: list(object({ protocol: text(), port: count() })),
      }),
      description:
        'what the container uses of the machine below it; absent: it is sealed, and not for this node',
    },
  }),
  CheckpointRequest: object({
    container: text('name or ID'),
    ...common,
    'leaveRunning?': { type: 'boolean', description: 'default: it is removed when the checkpoint is safe' },
    'expiresInMs?': ms,
  }),
  RestoreRequest: object({
    checkpoint: text('NAME, NAME:VERSION or NAME@DIGEST'),
    'name?': text('of the container; default the one it had'),
    'runtime?': runtime,
  }),
  CheckpointJob: object({
    id: text(),
    what: oneOf('create', 'restore'),
    reference: text('the container, or the checkpoint'),
    state: oneOf('running', 'done', 'failed', 'cancelled'),
    startedAt: time,
    'finishedAt?': time,
    'step?': text('that it is at'),
    'seconds?': {
      type: 'object',
      additionalProperties: { type: 'number', minimum: 0 },
      description: 'by step, in their order',
    },
    'checkpoint?': text('NAME:VERSION that was made'),
    'digest?': digest,
    'size?': count(),
    'added?': count(),
    'container?': text('ID of the one that was restored'),
    'pid?': count(),
    'error?': ref('Problem'),
  }),
  CheckpointPlanRequest: object({
    container: text('name or ID'),
    ...common,
    everyMs: { type: 'integer', minimum: 1000 },
    'keep?': { type: 'integer', minimum: 1, description: 'versions of this node; default 3' },
  }),
  CheckpointPlan: object({
    name: text('of the checkpoint'),
    container: text(),
    id: text('of the container'),
    runtime,
    everyMs: count(),
    keep: count(),
    'copies?': count(),
    'encryptFor?': list(text()),
    'lastAt?': time,
    'lastVersion?': count(),
    'error?': text('why the last attempt failed'),
  }),
}
