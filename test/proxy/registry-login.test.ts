import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createLogin } from '../../cli/api/guard.ts'
import { assertRefused, pushImage, pushNode } from './push-tools.ts'
import { node } from './registry-tools.ts'
import { fake } from './upstream-tools.ts'

const TOKEN = 'the-token-of-this-node'
const basic = (password: string): { Authorization: string } => ({
  Authorization: `Basic ${Buffer.from(`anna:${password}`).toString('base64')}`,
})
/** What comes through a proxy of this machine may be from another one. */
const AFAR = { 'X-Forwarded-For': '192.0.2.1' }

test('clients of other machines are sent for a token; everybody gets one to read, the owner one to push', async (t) => {
  const { isOwner, isRemote } = createLogin({ token: TOKEN })
  const node = await pushNode(t, { push: { login: { isOwner, isRemote } } })
  await pushImage(node, 'local/app', 'v1')
  assert.equal((await node.get('/v2/')).status, 200)
  const asked = await node.get('/v2/', AFAR)
  assertRefused(asked, 401, 'UNAUTHORIZED')
  assert.equal(asked.headers['www-authenticate'], `Bearer realm="${node.base}/v2/token",service="shoal"`)
  const secure = await node.get('/v2/', { ...AFAR, 'X-Forwarded-Proto': 'https', Host: 'edge.test:5080' })
  assert.match(
    String(secure.headers['www-authenticate']),
    /^Bearer realm="https:\/\/edge\.test:5080\/v2\/token"/,
  )
  assert.equal((await node.get('/v2/', { ...AFAR, Host: 'a"b' })).status, 200)

  const tokenOf = async (query: string, headers: Record<string, string> = {}): Promise<unknown> => {
    const { status, json } = await node.get(`/v2/token${query}`, { ...AFAR, ...headers })
    return status === 200 ? (json() as { token?: string }).token : status
  }
  const pull = '?service=shoal&scope=repository:local/app:pull'
  assert.equal(await tokenOf(''), 'anybody')
  assert.equal(await tokenOf(pull), 'anybody')
  assert.equal(await tokenOf('?account=anna&service=shoal', basic(TOKEN)), TOKEN)
  assert.equal(await tokenOf(`${pull},push`, basic(TOKEN)), TOKEN)
  // Who logs in, or wants to push, learns that the password is wrong; who reads may have one for another registry.
  assert.equal(await tokenOf('?account=anna&service=shoal', basic('wrong')), 401)
  assert.equal(await tokenOf(`${pull},push`, basic('wrong')), 401)
  assert.equal(await tokenOf(pull, basic('wrong')), 'anybody')

  for (const token of ['anybody', TOKEN]) {
    const bearer = { ...AFAR, Authorization: `Bearer ${token}` }
    assert.equal((await node.get('/v2/', bearer)).status, 200)
    assert.equal((await node.get('/v2/local/app/manifests/v1', bearer)).status, 200)
  }
})

test('what is for this node never goes upstream', async (t) => {
  const registry = await fake(t)
  const digest = registry.addBlob('library/app', Buffer.from('bytes'))
  const here = await node(t, registry, { push: { login: createLogin({ token: TOKEN }) } })
  const headers = [
    { Authorization: 'Bearer for-upstream' },
    { Authorization: 'Bearer anybody' },
    { Authorization: `Bearer ${TOKEN}` },
    basic(TOKEN),
  ]
  for (const one of headers) await here.get(`/v2/library/app/blobs/${digest}`, one)
  const sent = new Set(registry.requests.map(({ headers: { authorization } }) => authorization))
  assert.deepEqual([...sent], ['Bearer for-upstream', undefined])
})
