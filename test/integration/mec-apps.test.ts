import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { z } from 'zod'
import { openApiDocument } from '../../integration/mec/openapi.ts'
import { assertProblem } from './mec-schemas.ts'
import { APP, createAsk, startMec, until } from './mec-tools.ts'

describe("kube-mec's verbs", () => {
  test('register, offload, see it run, delete it, and once more', async (t) => {
    const { ue, base } = await startMec(t)
    const made = await ue('POST', '/mec/v1/apps', APP)
    assert.equal(made.status, 201)
    assert.equal(made.body.state, 'copying')
    const path = `/mec/v1/apps/${made.body.id}`
    assert.equal(made.headers.get('location'), base + path)

    const offloaded = await ue('POST', `${path}/offload`)
    assert.equal(offloaded.status, 202)
    await until('it runs', async () => (await ue('GET', path)).body.state === 'running')
    const { body } = await ue('GET', path)
    const [pod] = body.pods
    assert.equal(pod.node, 'edge-1')
    assert.match(pod.referenceURI, /^http:\/\/10\.0\.0\.1:\d+$/)
    assert.equal(typeof pod.startedMs, 'number')
    // What was asked for comes back in the units that it came in.
    assert.deepEqual([pod.cpu, pod.memory, pod.storage, pod.ports], ['250m', '64Mi', '100Mi', [8080]])
    assert.deepEqual((await ue('GET', '/mec/v1/apps')).body, [body])

    assert.equal((await ue('DELETE', path)).status, 204)
    assertProblem(await ue('DELETE', path), 404)
    assertProblem(await ue('GET', path), 404)
    assertProblem(await ue('POST', `${path}/offload`), 404)
    assert.deepEqual((await ue('GET', '/mec/v1/apps')).body, [])
  })

  test('nothing fits: a 403 with the reasons', async (t) => {
    const { ue, offload } = await startMec(t)
    offload.room = []
    const { body } = await ue('POST', '/mec/v1/apps', APP)
    const problem = assertProblem(await ue('POST', `/mec/v1/apps/${body.id}/offload`), 403)
    assert.equal(problem.code, 'UNFIT')
    assert.match(problem.detail, /nothing fits/)
  })

  test('another device sees nothing of it', async (t) => {
    const node = await startMec(t)
    const other = await node.device('ue-2')
    const { body } = await node.ue('POST', '/mec/v1/apps', APP)
    const path = `/mec/v1/apps/${body.id}`
    assert.deepEqual((await other('GET', '/mec/v1/apps')).body, [])
    for (const [method, at] of [
      ['GET', path],
      ['DELETE', path],
      ['POST', `${path}/offload`],
    ] as const) {
      assertProblem(await other(method, at), 404)
    }
    assert.equal((await node.ue('GET', path)).status, 200)
  })

  const pod = APP.pods[0]!
  const wrong: [field: string, body: unknown][] = [
    ['name', { ...APP, name: undefined }],
    ['name', { ...APP, name: 'x'.repeat(33) }],
    ['name', { ...APP, name: 7 }],
    ['name', { ...APP, name: 'a\nb' }],
    ['pods', { ...APP, pods: [] }],
    ['pods', { ...APP, pods: Array(17).fill(pod) }],
    ['pods', { ...APP, pods: [pod, pod] }],
    ['pods[0]', { ...APP, pods: ['web'] }],
    ['pods[0].image', { ...APP, pods: [{ ...pod, image: 'a b' }] }],
    ['pods[0].cpu', { ...APP, pods: [{ ...pod, cpu: '250' + 'x' }] }],
    ['pods[0].cpu', { ...APP, pods: [{ ...pod, cpu: 0.25 }] }],
    ['pods[0].cpu', { ...APP, pods: [{ ...pod, cpu: '0' }] }],
    ['pods[0].memory', { ...APP, pods: [{ ...pod, memory: '64MB' }] }],
    ['pods[0].memory', { ...APP, pods: [{ ...pod, memory: '-1Mi' }] }],
    ['pods[0].storage', { ...APP, pods: [{ ...pod, storage: '100 Mi' }] }],
    ['pods[0].ports[0]', { ...APP, pods: [{ ...pod, ports: [0] }] }],
    ['pods[0].ports[0]', { ...APP, pods: [{ ...pod, ports: ['8080'] }] }],
    ['pods[0].ports', { ...APP, pods: [{ ...pod, ports: [80, 80] }] }],
    ['pods[0].env.A=B', { ...APP, pods: [{ ...pod, env: { 'A=B': 'c' } }] }],
    ['pods[0].args[0]', { ...APP, pods: [{ ...pod, args: [1] }] }],
    ['pods[0].ui', { ...APP, pods: [{ ...pod, ui: 'yes' }] }],
    ['pods[0].privileged', { ...APP, pods: [{ ...pod, privileged: true }] }],
    ['requiredDelayMs', { ...APP, requiredDelayMs: 0 }],
    ['executionTimeS', { ...APP, executionTimeS: 1.5 }],
    ['priority', { ...APP, priority: -1 }],
    ['(body)', [APP]],
    ['(body)', null],
  ]
  test('each malformed member is named', async (t) => {
    const { ue, offload } = await startMec(t)
    for (const [field, body] of wrong) {
      const problem = assertProblem(await ue('POST', '/mec/v1/apps', body === null ? 'null' : body), 400)
      const fields = (problem.errors as { field: string }[] | undefined)?.map((error) => error.field)
      // A bare null is refused before it is read.
      if (body !== null) assert.deepEqual(fields, [field], JSON.stringify(body))
    }
    assert.equal(offload.calls.register, 0)
  })

  test('all that is wrong is told at once', async (t) => {
    const { ue } = await startMec(t)
    const problem = assertProblem(
      await ue('POST', '/mec/v1/apps', { name: '', pods: [{ name: 'Web', image: 7, cpu: 'x', memory: '' }] }),
      400,
    )
    const fields = (problem.errors as { field: string }[]).map(({ field }) => field)
    assert.deepEqual(fields.sort(), [
      'name',
      'pods[0].cpu',
      'pods[0].image',
      'pods[0].memory',
      'pods[0].name',
    ])
  })

  test('events: as it is, each change once, and its end', async (t) => {
    const { ue, base, mec, offload } = await startMec(t)
    const { token } = await mec.tokens.create('ue-1')
    const { body } = await ue('POST', '/mec/v1/apps', APP)
    const res = await fetch(`${base}/mec/v1/apps/${body.id}/events`, {
      headers: { Authorization: `Bearer ${token}`, Accept: 'text/event-stream' },
    })
    assert.match(res.headers.get('content-type') ?? '', /^text\/event-stream/)
    offload.startMs = 20
    await ue('POST', `/mec/v1/apps/${body.id}/offload`)
    await until('it runs', async () => (await ue('GET', `/mec/v1/apps/${body.id}`)).body.state === 'running')
    await ue('DELETE', `/mec/v1/apps/${body.id}`)
    const text = await res.text()
    const states = [...text.matchAll(/"state":"(registered|copying|starting|running|deleting)","requ/g)]
    assert.deepEqual(
      states.map(([, state]) => state),
      ['copying', 'starting', 'running', 'deleting'],
    )
    assert.match(text, /event: deleted\ndata: \{"id":"[0-9a-f]+"\}\n\n$/)
    assertProblem(await ue('GET', `/mec/v1/apps/${body.id}/events`), 404)
  })
})

describe('who is let in', () => {
  test('no token, a wrong one, one that expired, one that was revoked', async (t) => {
    const { base, mec } = await startMec(t)
    const bare = await createAsk(base)('GET', '/mec/v1/apps')
    assertProblem(bare, 401)
    assert.equal(bare.headers.get('www-authenticate'), 'Bearer realm="shoal"')

    const { token, id } = await mec.tokens.create('ue-9')
    for (const wrong of ['x', `${id}.x`, `${token}x`, `.${token}`, 'a'.repeat(256)]) {
      const answer = await createAsk(base, wrong)('GET', '/mec/v1/apps')
      assertProblem(answer, 401)
      assert.match(answer.headers.get('www-authenticate') ?? '', /error="invalid_token"/)
    }
    assertProblem(
      await createAsk(base)('GET', '/mec/v1/apps', undefined, { Authorization: 'Basic eA==' }),
      401,
    )

    const short = await mec.tokens.create('ue-9', { expiresInMs: 1 })
    await until(
      'it expires',
      async () => (await createAsk(base, short.token)('GET', '/mec/v1/apps')).status === 401,
    )
    assert.equal((await createAsk(base, token)('GET', '/mec/v1/apps')).status, 200)
    assert.equal(await mec.tokens.revoke(id), 1)
    assertProblem(await createAsk(base, token)('GET', '/mec/v1/apps'), 401)
  })

  test('the secret of a token is kept nowhere', async (t) => {
    const { mec } = await startMec(t)
    const { token, id, ue } = await mec.tokens.create('ue-9')
    const [, listed] = mec.tokens.list()
    assert.deepEqual([listed?.id, listed?.ue], [id, ue])
    assert.ok(!JSON.stringify(mec.tokens.list()).includes(token.split('.')[1]!))
    for (const bad of ['', 'x'.repeat(33), 'a/b', '-a', 'a b']) {
      await assert.rejects(mec.tokens.create(bad), { code: 'NAME_INVALID' })
    }
    assert.equal(await mec.tokens.revoke('ue-9'), 1)
    assert.equal(await mec.tokens.revoke('ue-9'), 0)
  })
})

describe('the document', () => {
  test('describes all that is served, and nothing else', async (t) => {
    const { mec, base } = await startMec(t)
    const document = openApiDocument('1.2.3') as { paths: Record<string, Record<string, unknown>> }
    const described = Object.entries(document.paths).flatMap(([path, operations]) =>
      Object.keys(operations).map((method) => `${method.toUpperCase()} ${path}`),
    )
    assert.deepEqual(described.sort(), [...mec.routes].sort())
    const served = await createAsk(base)('GET', '/openapi.json')
    assert.deepEqual(served.body, JSON.parse(JSON.stringify(document)))
  })

  test('has schemas that are such', () => {
    const { components } = openApiDocument('1') as { components: { schemas: Record<string, object> } }
    const $defs = JSON.parse(
      JSON.stringify(components.schemas).replaceAll('#/components/schemas/', '#/$defs/'),
    ) as Record<string, object>
    for (const name of Object.keys($defs)) {
      z.fromJSONSchema({ $ref: `#/$defs/${name}`, $defs } as Parameters<typeof z.fromJSONSchema>[0])
    }
    assert.ok(Object.keys($defs).length > 20)
  })
})
