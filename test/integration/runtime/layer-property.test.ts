import assert from 'node:assert/strict'
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { isShoalError } from '../../../base/index.ts'
import {
  readTar,
  TAR_END,
  type TarHead,
  tarHead,
  tarPadding,
} from '../../../integration/runtime/layer/tar.ts'
import { applyLayer, readLayer } from '../../../integration/runtime/layer.ts'
import { bytesOf, mounted, quiet, type Spec, tarOf, treeOf } from './layer-support.ts'

const root = process.getuid?.() === 0 ? {} : { skip: 'needs root: overlayfs, owners and devices' }

/** A directory tree: a file's text, a symbolic link, what is below, or (in layers only) a mark that it is removed. */
type Tree = { [name: string]: string | { link: string } | { opaque: boolean; tree: Tree } | null }

const name = fc.constantFrom('a', 'b', 'c', 'ü', 'x y', 'n'.repeat(120))
const leaf = fc.oneof(
  fc.string({ maxLength: 20 }),
  fc.record({ link: fc.constantFrom('a', '/etc/passwd', 'l'.repeat(150)) }),
)

function trees(depth: number, marks: boolean): fc.Arbitrary<Tree> {
  const below =
    depth === 0
      ? []
      : [fc.record({ opaque: marks ? fc.boolean() : fc.constant(false), tree: trees(depth - 1, marks) })]
  const node = fc.oneof(leaf, ...below, ...(marks ? [fc.constant(null)] : []))
  return fc.dictionary(name, node, { maxKeys: 4 })
}

function layerOf(tree: Tree, at = ''): Spec[] {
  return Object.keys(tree)
    .sort()
    .flatMap((key): Spec[] => {
      const node = tree[key]!
      const path = at + key
      if (node === null) return [{ name: `${at}.wh.${key}` }]
      if (typeof node === 'string') return [{ name: path, body: node }]
      if ('link' in node) return [{ name: path, type: 'symlink', link: node.link, mode: 0o777 }]
      const marks = node.opaque ? [{ name: `${path}/.wh..wh..opq` }] : []
      return [{ name: `${path}/` }, ...marks, ...layerOf(node.tree, `${path}/`)]
    })
}

/** Without the marks that overlayfs never makes, since there is nothing below them to hide: it shows them as files. */
function pruned(layer: Tree, lower: Tree | undefined): Tree {
  const kept = Object.entries(layer).flatMap(([key, node]): [string, Tree[string]][] => {
    if (node === null) return lower ? [[key, null]] : []
    if (typeof node === 'string' || 'link' in node) return [[key, node]]
    const under = lower?.[key]
    const merges = !node.opaque && under && typeof under !== 'string' && 'tree' in under
    return [[key, { ...node, tree: pruned(node.tree, merges ? under.tree : undefined) }]]
  })
  return Object.fromEntries(kept)
}

async function inScratch(use: (dir: string) => Promise<void>): Promise<void> {
  const dir = await mkdtemp(join(tmpdir(), 'shoal-layer-'))
  try {
    await use(dir)
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}

test(
  'a layer comes out of a directory as it went in, and over a lower one it shows what overlayfs shows',
  root,
  () =>
    fc.assert(
      fc.asyncProperty(trees(2, false), trees(2, true), (lower, any) =>
        inScratch(async (dir) => {
          const layer = pruned(any, lower)
          const at = (path: string): string => join(dir, path)
          await applyLayer(tarOf(layerOf(lower)), at('lower'), { form: 'plain', signal: quiet })
          await applyLayer(tarOf(layerOf(lower)), at('merged'), { form: 'plain', signal: quiet })
          await applyLayer(tarOf(layerOf(layer)), at('upper'), { form: 'overlay', signal: quiet })
          await applyLayer(tarOf(layerOf(layer)), at('merged'), { form: 'merged', signal: quiet })
          const seen = await mounted(at('lower'), at('upper'), treeOf)
          assert.deepEqual(await treeOf(at('merged')), seen)

          const read = await bytesOf(readLayer(at('upper'), { form: 'overlay', signal: quiet }))
          await mkdir(at('again'))
          await applyLayer(readLayer(at('upper'), { form: 'overlay', signal: quiet }), at('again'), {
            form: 'overlay',
            signal: quiet,
          })
          assert.deepEqual(await bytesOf(readLayer(at('again'), { form: 'overlay', signal: quiet })), read)
        }),
      ),
      { numRuns: 25 },
    ),
)

test('whatever a tar says, nothing beside the directory changes', () => {
  const part = fc.constantFrom('..', '.', '', 'a', 'b', 'in', 'out', '.wh.a', '.wh...', '.wh..wh..opq')
  const path = fc
    .tuple(fc.constantFrom('', '/', './'), fc.array(part, { maxLength: 4 }))
    .map(([start, parts]) => start + parts.join('/'))
  const type = fc.constantFrom('file', 'dir', 'symlink', 'link', 'fifo', 'char', 'block') as fc.Arbitrary<
    Spec['type'] & string
  >
  const spec: fc.Arbitrary<Spec> = fc.record({ name: path, type, link: path, body: fc.constant('') })
  const form = fc.constantFrom('overlay', 'plain', 'merged')
  return fc.assert(
    fc.asyncProperty(fc.array(spec, { minLength: 1, maxLength: 8 }), form, (specs, form) =>
      inScratch(async (dir) => {
        const seed: Spec[] = [
          { name: 'in/' },
          { name: 'in/a', type: 'symlink', link: '../out' },
          { name: 'out/' },
        ]
        await applyLayer(tarOf([...seed, { name: 'out/b', body: 'kept' }]), join(dir, 'all'), {
          form: 'plain',
          signal: quiet,
        })
        const before = await treeOf(join(dir, 'all'))
        const inside = join(dir, 'all/in')
        let refused = false
        await applyLayer(tarOf(specs), inside, { form, signal: quiet }).catch((error: unknown) => {
          if (!isShoalError(error, 'DENIED', 'RUNTIME')) throw error
          refused = true
        })
        const after = await treeOf(join(dir, 'all'))
        const beside = (tree: Record<string, string>): object =>
          Object.fromEntries(Object.entries(tree).filter(([key]) => refused || !key.startsWith('in')))
        assert.deepEqual(beside(after), beside(before))
      }),
    ),
    { numRuns: 60 },
  )
})

test('a tar of any entries reads as it was written', () => {
  const bytes = fc.uint8Array({ maxLength: 300 }).map((array) => Buffer.from(array))
  const name = fc
    .uint8Array({ minLength: 1, maxLength: 300 })
    .map((array) => Buffer.from(array.map((byte) => byte || 1)).toString('latin1'))
  const head = fc.record({
    name,
    type: fc.constantFrom('file', 'symlink', 'link', 'fifo') as fc.Arbitrary<TarHead['type']>,
    link: name,
    mode: fc.integer({ min: 0, max: 0o7777 }),
    uid: fc.integer({ min: 0, max: 2 ** 32 }),
    gid: fc.integer({ min: 0, max: 2 ** 32 }),
    mtime: fc.constantFrom('0', '1700000000', '1700000000.5', '-3', '99999999999'),
    xattrs: fc.dictionary(fc.constantFrom('user.a', 'user.b', 'security.capability'), bytes),
    body: bytes,
    cut: fc.integer({ min: 1, max: 1500 }),
  })
  return fc.assert(
    fc.asyncProperty(fc.array(head, { maxLength: 4 }), async (heads) => {
      const entries = heads.map(({ body, cut: _, xattrs, ...rest }) => ({
        head: {
          ...rest,
          size: rest.type === 'file' ? body.length : 0,
          major: 0,
          minor: 0,
          xattrs: new Map(Object.entries(xattrs)),
        },
        body: rest.type === 'file' ? body : Buffer.alloc(0),
      }))
      const all = Buffer.concat([
        ...entries.flatMap(({ head, body }) => [tarHead(head), body, tarPadding(body.length)]),
        TAR_END,
      ])
      const step = heads[0]?.cut ?? 100
      async function* chunks(): AsyncGenerator<Buffer> {
        for (let at = 0; at < all.length; at += step) yield all.subarray(at, at + step)
      }
      const read = []
      for await (const { body, ...head } of readTar(chunks())) read.push({ head, body: await bytesOf(body) })
      assert.deepEqual(read, entries)
    }),
    { numRuns: 200 },
  )
})
