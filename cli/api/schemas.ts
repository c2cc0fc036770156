/** A JSON Schema, as OpenAPI 3.1 has them. */
export type Schema = Record<string, unknown>

export const ref = (name: string): Schema => ({ $ref: `#/components/schemas/${name}` })
export const list = (items: Schema): Schema => ({ type: 'array', items })

export const text = (description?: string): Schema => ({
  type: 'string',
  ...(description ? { description } : {}),
})
export const count = (description?: string): Schema => ({
  type: 'integer',
  minimum: 0,
  ...(description ? { description } : {}),
})
export const time = count('milliseconds since the epoch')
export const oneOf = (...values: string[]): Schema => ({ type: 'string', enum: values })
export const digest: Schema = { type: 'string', pattern: '^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$' }

/** An object with exactly these members; those whose name ends in `?` may be absent. */
export function object(members: Record<string, Schema>): Schema {
  const names = Object.keys(members)
  return {
    type: 'object',
    properties: Object.fromEntries(names.map((name) => [name.replace('?', ''), members[name]])),
    required: names.filter((name) => !name.endsWith('?')),
    additionalProperties: false,
  }
}

const member = {
  id: text('peer ID'),
  name: text(),
  site: text(),
  addrs: { ...list(text()), description: 'multiaddrs without /p2p' },
  state: oneOf('alive', 'suspect', 'dead', 'left'),
  'registry?': text('HOST:PORT'),
  'api?': text('HOST:PORT'),
}

const localWrite = {
  'digest?': { ...digest, description: 'absent: the tag was deleted' },
  at: time,
  node: text('peer ID of the node that it was pushed to'),
}

const health: Schema = {
  oneOf: [
    object({ kind: { const: 'exec' }, args: { ...list(text()), minItems: 1 } }),
    object({ kind: { const: 'http' }, url: text('http://…, as seen from within the container') }),
    object({
      kind: { const: 'tcp' },
      host: text('as seen from within the container'),
      port: { type: 'integer', minimum: 1, maximum: 65535 },
    }),
  ],
}
const runtime = oneOf('containerd', 'docker', 'runc')
const mecToken = {
  id: text('its first part'),
  ue: text('the device'),
  createdAt: time,
  'expiresAt?': time,
}

const mecApp = {
  appName: text(),
  appProvider: text(),
  appDescription: text(),
  'vendorId?': text(),
  'serviceCont?': { type: 'boolean', description: 'its state must go with it' },
  'devices?': { ...list(text()), description: 'only these see it' },
  application: { type: 'object', description: 'as in POST /mec/v1/apps of the MEC API' },
}

export const SCHEMAS: Record<string, Schema> = {
  MigrationRequest: object({
    container: text('name, ID or the beginning of one'),
    'runtime?': { ...runtime, description: 'needed where several have such a container' },
    to: text('name or peer ID of the node'),
    'rounds?': count('of pre-copying at most; default 5'),
    'health?': { ...health, description: 'what must answer at the target before the source lets go' },
    'tcpEstablished?': {
      type: 'boolean',
      description:
        'keep TCP connections, where the same address comes up at the target; else they are closed',
    },
  }),
  Migration: object({
    id: text(),
    role: { ...oneOf('source', 'target'), description: "this node's" },
    container: object({ id: text('at the source'), name: text(), runtime }),
    from: text('peer ID'),
    to: text('peer ID'),
    state: oneOf('running', 'done', 'rolled-back', 'refused', 'failed', 'called-off', 'undecided'),
    phase: text('see docs/migration.md'),
    rounds: list(
      object({
        frozen: { type: 'boolean' },
        seconds: { type: 'number', minimum: 0 },
        changed: count('bytes that changed since the round before, before compression'),
        sent: count('bytes that went to the target'),
      }),
    ),
    'downtimeMs?': {
      type: 'number',
      description: 'frozen at the source until running at the target, or again at the source',
    },
    startedAt: time,
    'restoredAt?': { ...time, description: 'when its processes were restored at the target' },
    'endedAt?': time,
    'reason?': text('why it was refused, failed or is undecided, and what to do about it'),
  }),
  Decision: object({ side: oneOf('source', 'target') }),
  Drained: object({
    moved: list(ref('Migration')),
    left: list(object({ container: text(), reason: text() })),
  }),
  Problem: object({
    type: text('a URN that is stable for the kind of problem'),
    title: text(),
    status: { type: 'integer', minimum: 400, maximum: 599 },
    detail: text('for people'),
    code: text('stable, for programs'),
    'instance?': text('what was asked for'),
  }),
  Sources: {
    ...object({ local: count(), peers: count(), upstream: count() }),
    description: 'bytes by where they came from',
  },
  Member: object(member),
  Peer: object({
    ...member,
    connected: { type: 'boolean' },
    rate: { type: 'number', minimum: 0, description: 'bytes a second, as measured while it sent' },
    latencyMs: { type: 'number', minimum: 0 },
    sent: count('bytes to it'),
    received: count('bytes from it'),
    shunned: { type: 'boolean', description: 'it failed often or lied: nothing is asked of it' },
  }),
  Task: object({
    digest,
    label: text('HOST/REPOSITORY it is for'),
    'size?': count(),
    bytesHere: count(),
    sources: ref('Sources'),
    coordinator: text('peer ID'),
    coordinatorName: text(),
    peers: count('peers that have parts of it'),
    leases: count('ranges that this node fetches from upstream'),
    readers: count('clients that read it'),
    priority: oneOf('client', 'preheat'),
    startedAt: time,
    state: oneOf('running', 'done', 'failed'),
    rate: count('bytes a second on average'),
    waitingFor: text('for people'),
    'error?': text(),
  }),
  Image: object({
    reference: text(),
    digest,
    platforms: list(text('OS/ARCH')),
    size: count(),
    bytesHere: count(),
    bytesKept: count("of these, bytes that are this node's share of a stored image"),
    'bytesBorrowed?': count("bytes of blobs that lie in containerd's files"),
    complete: { type: 'boolean' },
    pinned: { type: 'boolean', description: 'it is not evicted' },
    blobs: count('manifests, configs and layers that are known'),
    'usedAt?': time,
    startable: { type: 'boolean', description: 'it can be started here without the uplink' },
    'stored?': {
      ...object({
        copies: count('as wanted'),
        copiesNow: count('that every block has at least, on nodes that are alive'),
        bytesInSite: count('on all disks of the site'),
      }),
      description: 'absent where the site does not store it',
    },
  }),
  StoreRequest: object({
    reference: { type: 'string', minLength: 1, maxLength: 512 },
    copies: { type: 'integer', minimum: 1, maximum: 1024 },
    'platform?': text("OS/ARCH or OS/ARCH/VARIANT, or all; default this machine's"),
  }),
  Storing: object({
    id: text(),
    reference: text(),
    copies: count(),
    'platform?': text(),
    state: oneOf('running', 'done', 'failed', 'cancelled'),
    'name?': text('that it is stored under'),
    'digest?': digest,
    startedAt: time,
    'finishedAt?': time,
    blobs: count(),
    blobsDone: count('that are where they belong'),
    bytes: count(),
    bytesDone: count(),
    'error?': ref('Problem'),
  }),
  Stored: object({
    name: text('HOST/REPOSITORY:TAG or HOST/REPOSITORY@DIGEST'),
    digest,
    site: text(),
    copies: count('as wanted'),
    copiesNow: count('that every block has at least, on nodes that are alive'),
    blobs: count('manifests, configs and layers'),
    size: count(),
    bytesHere: count(),
    bytesKept: count("this node's share"),
    bytesInSite: count('on all disks of the site'),
    startable: { type: 'boolean', description: 'every block is on a node that is alive' },
  }),
  RepairRequest: object({
    'now?': { type: 'boolean', description: 'also what nodes have that are away only for a while' },
  }),
  Repaired: object({
    copied: count('blocks'),
    bytes: count(),
    lost: count('blocks of which no copy was found'),
  }),
  LocalWrite: object(localWrite),
  LocalRepository: object({
    name: text('as images are called: local/NAME'),
    tags: list(
      object({
        tag: text(),
        digest,
        at: time,
        node: localWrite.node,
        beaten: {
          ...list(ref('LocalWrite')),
          description: 'writes at the same time on other nodes, which lost; the latest first',
        },
      }),
    ),
    manifests: list(object({ digest, mediaType: text(), size: count(), 'subject?': digest })),
  }),
  PullRequest: object({
    reference: { type: 'string', minLength: 1, maxLength: 512 },
    'platform?': text("OS/ARCH or OS/ARCH/VARIANT; default this machine's"),
  }),
  PullBlob: object({
    digest,
    kind: oneOf('manifest', 'config', 'layer', 'blob'),
    'size?': count(),
    bytesHere: count(),
    state: oneOf('waiting', 'running', 'done', 'failed'),
    sources: ref('Sources'),
  }),
  Pull: object({
    id: text(),
    reference: text(),
    'platform?': text(),
    state: oneOf('running', 'done', 'failed', 'cancelled'),
    'digest?': digest,
    startedAt: time,
    'finishedAt?': time,
    blobs: list(ref('PullBlob')),
    'size?': count(),
    bytesHere: count(),
    sources: ref('Sources'),
    'error?': ref('Problem'),
  }),
  Upstream: object({
    host: text(),
    requests: count(),
    failures: count(),
    'lastOkAt?': time,
    'lastFailureAt?': time,
    'lastError?': text(),
  }),
  ReadyCheck: object({ name: text(), ok: { type: 'boolean' }, 'reason?': text() }),
  Ready: object({ ready: { type: 'boolean' }, checks: list(ref('ReadyCheck')) }),
  Health: object({ status: { const: 'alive' } }),
  PinRequest: object({ reference: { type: 'string', minLength: 1, maxLength: 512 } }),
  CollectRequest: object({
    'all?': {
      type: 'boolean',
      description: "everything that is neither kept, pinned, in use nor in containerd's files",
    },
  }),
  ScrubRequest: object({ 'bytesPerSecond?': { type: 'number', minimum: 1 } }),
  Scrub: object({
    state: { ...oneOf('never', 'running', 'done', 'failed', 'cancelled'), description: 'since the start' },
    'startedAt?': time,
    'finishedAt?': time,
    'bytesPerSecond?': { type: 'number', minimum: 1, description: 'at most' },
    blocks: count('looked at so far'),
    bytes: count('looked at so far'),
    bad: count('blocks that were damaged or missing'),
    total: count('bytes that there were at the beginning'),
    'error?': ref('Problem'),
  }),
  MecToken: object(mecToken),
  MecTokenMade: object({ ...mecToken, token: text('told this once') }),
  MecTokenRequest: object({ ue: text('32 characters at most'), 'expiresInMs?': { type: 'number' } }),
  MecRevoked: object({ revoked: count('tokens') }),
  MecApp: object({ ...mecApp, appDId: text(), appSoftVersion: text(), appDVersion: text() }),
  MecAppRequest: object({
    ...mecApp,
    'appDId?': text('default: a hash of the names'),
    'appSoftVersion?': text(),
    'appDVersion?': text(),
  }),
  Collected: object({ blobs: count('blobs that lost something'), bytes: count('bytes that were freed') }),
  Status: object({
    id: text('peer ID'),
    name: text(),
    site: text(),
    addrs: { ...list(text()), description: 'multiaddrs without /p2p; another node bootstraps from them' },
    registry: text('HOST:PORT that runtimes pull from'),
    version: text(),
    startedAt: time,
    uptimeMs: count(),
    ready: list(ref('ReadyCheck')),
    store: object({
      bytes: count("of the store's own blocks"),
      blocks: count(),
      borrowed: count("bytes that lie in containerd's files instead"),
      kept: count('bytes that are kept as shares, wherever they lie'),
      'quota?': count('of bytes'),
    }),
    totals: object({ peersIn: count(), peersOut: count(), upstream: count(), local: count() }),
    tasks: { ...list(ref('Task')), description: 'those under way' },
    members: {
      ...object({ alive: count(), suspect: count(), dead: count(), left: count() }),
      description: 'known nodes by state, this one included',
    },
    upstreams: list(ref('Upstream')),
    eventLoopLagMs: object({
      p50: { type: 'number', minimum: 0 },
      p99: { type: 'number', minimum: 0 },
      max: { type: 'number', minimum: 0 },
    }),
    rssBytes: count(),
  }),
}
