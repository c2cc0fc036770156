import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { type handleUnaryCall, Server, ServerCredentials, status } from '@grpc/grpc-js'
import { loadSync, type ServiceDefinition } from '@grpc/proto-loader'
import { type ContainerdClient, connectContainerd } from '../../../integration/runtime/containerd/index.ts'

const PROTO = fileURLToPath(new URL('../../../integration/runtime/containerd/proto', import.meta.url))

type Methods = Record<string, handleUnaryCall<unknown, unknown>>

/** What a containerd says that does not do as it should; a real one is in test/e2e. */
describe("containerd's client", () => {
  const signal = AbortSignal.timeout(60_000)
  let dir: string
  let address: string
  let server: Server | undefined
  let client: ContainerdClient
  let namespaces: unknown[]

  async function serve(methods: Methods): Promise<void> {
    const all = loadSync(['containers.proto', 'version.proto'], { includeDirs: [PROTO] })
    const made = new Server()
    for (const name of ['containers.v1.Containers', 'version.v1.Version']) {
      const service = all[`containerd.services.${name}`] as ServiceDefinition
      const own = Object.keys(service).filter((method) => methods[method])
      made.addService(service, Object.fromEntries(own.map((method) => [method, methods[method]!])))
    }
    await new Promise<void>((resolve, reject) => {
      made.bindAsync(`unix:${address}`, ServerCredentials.createInsecure(), (error) =>
        error ? reject(error) : resolve(),
      )
    })
    server = made
  }

  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'shoal-client-'))
    address = join(dir, 'containerd.sock')
    client = connectContainerd({ address, namespace: 'apart' })
    namespaces = []
  })
  afterEach(async () => {
    client.close()
    server?.forceShutdown()
    server = undefined
    await rm(dir, { recursive: true })
  })

  const version: Methods = {
    Version(call, done) {
      namespaces.push(call.metadata.get('containerd-namespace')[0])
      done(null, { version: '1.2.3', revision: 'abc' })
    },
  }

  test('each call names its namespace; what was away is found again', async () => {
    await assert.rejects(client.version.version({}, { signal }), { code: 'RUNTIME' })
    for (let round = 0; round < 2; round++) {
      await serve(version)
      assert.deepEqual(await client.version.version({}, { signal }), { version: '1.2.3', revision: 'abc' })
      server?.forceShutdown()
      await rm(address, { force: true })
      await assert.rejects(client.version.version({}, { signal }), /does not answer at .*containerd\.sock/)
    }
    assert.deepEqual(namespaces, ['apart', 'apart'])
  })

  test("what it refuses has one of Shoal's codes", async () => {
    let code = status.OK
    await serve({ Get: (_, done) => done({ code, details: 'as it says' }) })
    for (const [grpc, expected] of [
      [status.NOT_FOUND, 'NOT_FOUND'],
      [status.ALREADY_EXISTS, 'BUSY'],
      [status.UNIMPLEMENTED, 'UNFIT'],
      [status.FAILED_PRECONDITION, 'RUNTIME'],
      [status.UNKNOWN, 'RUNTIME'],
    ] as const) {
      code = grpc
      await assert.rejects(client.containers.get({ id: 'web' }, { signal }), (error: Error) => {
        assert.equal((error as Error & { code: string }).code, expected)
        assert.match(error.message, /as it says/)
        return true
      })
    }
  })

  test('one that never answers: the signal and the time that was given are heeded', async () => {
    await serve({ Get: () => {} })
    const asked = client.containers.get({ id: 'web' }, { signal, timeoutMs: 200 })
    await assert.rejects(asked, { code: 'TIMEOUT' })
    const giveUp = new AbortController()
    const hanging = client.containers.get({ id: 'web' }, { signal: giveUp.signal, timeoutMs: 0 })
    setTimeout(() => giveUp.abort(), 100)
    await assert.rejects(hanging, { code: 'ABORTED' })
  })
})
