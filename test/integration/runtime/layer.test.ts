import assert from 'node:assert/strict'
import { link, lstat, mkdir, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { test } from 'node:test'
import { isShoalError } from '../../../base/index.ts'
import { readTar } from '../../../integration/runtime/layer/tar.ts'
import { applyLayer, checkLayer, readLayer } from '../../../integration/runtime/layer.ts'
import { run } from '../../../integration/runtime/run.ts'
import { bytesOf, mounted, quiet, type Spec, scratch, tarOf, treeOf } from './layer-support.ts'

const root = process.getuid?.() === 0 ? {} : { skip: 'needs root: overlayfs, owners and devices' }

test('an upper directory of overlayfs goes through a tar and comes out the same', root, async (t) => {
  const dir = await scratch(t)
  const [lower, upper, copy] = ['lower', 'upper', 'copy'].map((name) => join(dir, name)) as [
    string,
    string,
    string,
  ]
  for (const path of [lower, upper, copy]) await mkdir(path)
  await mkdir(join(lower, 'gone'))
  await mkdir(join(lower, 'anew'))
  for (const name of ['removed', 'kept', 'gone/x', 'anew/old']) await writeFile(join(lower, name), name)
  await mounted(lower, upper, async (merged) => {
    await rm(join(merged, 'removed'))
    await rm(join(merged, 'gone'), { recursive: true })
    await rm(join(merged, 'anew'), { recursive: true })
    await mkdir(join(merged, 'anew'))
    const long = join(merged, 'anew', `${'long'.repeat(40)}ü`)
    await writeFile(long, 'x'.repeat(100_000))
    await link(long, join(merged, 'anew', 'zwei'))
    await symlink('/etc/passwd', join(merged, 'link'))
    await symlink('zwei', join(merged, 'anew', `${'l'.repeat(120)}`))
    await run('mkfifo', [join(merged, 'fifo')], { signal: quiet })
    await run('chown', ['3000000:100000', join(merged, 'fifo')], { signal: quiet })
    await run('chmod', ['4751', long], { signal: quiet })
  })
  const first = await bytesOf(readLayer(upper, { form: 'overlay', signal: quiet }))
  assert.deepEqual(await bytesOf(readLayer(upper, { form: 'overlay', signal: quiet })), first)
  // As CRIU does whenever it dumps.
  await writeFile(join(upper, '.criu'), '')
  await rm(join(upper, '.criu'))
  assert.deepEqual(await bytesOf(readLayer(upper, { form: 'overlay', signal: quiet })), first)
  const names: string[] = []
  for await (const entry of readTar(Readable.from([first]))) names.push(entry.name)
  assert.ok(names.includes('.wh.removed') && names.includes('.wh.gone'), names.join(' '))
  assert.equal(names[names.indexOf('anew/') + 1], 'anew/.wh..wh..opq')
  await writeFile(join(copy, 'was here before'), '')

  await applyLayer(Readable.from([first]), copy, { form: 'overlay', signal: quiet })

  assert.deepEqual(await treeOf(copy), await treeOf(upper))
  assert.deepEqual(await bytesOf(readLayer(copy, { form: 'overlay', signal: quiet })), first)
  assert.equal((await lstat(join(copy, 'anew', 'zwei'))).nlink, 2)
  await mounted(lower, copy, async (merged) => {
    assert.deepEqual((await readdir(join(merged, 'anew'))).includes('old'), false)
    assert.equal(await readFile(join(merged, 'kept'), 'utf8'), 'kept')
    await assert.rejects(lstat(join(merged, 'removed')))
  })
  assert.deepEqual((await readdir(dir)).sort(), ['copy', 'lower', 'upper'])
})

test('attributes are carried as bytes; those of overlayfs and of the machine are not', root, async (t) => {
  const dir = await scratch(t)
  const own = {
    'user.binary': Buffer.from(Array.from({ length: 256 }, (_, byte) => byte)),
    'security.capability': Buffer.from('0100000200200000000000000000000000000000', 'hex'),
  }
  const foreign = { 'trusted.overlay.redirect': '/../../etc', 'trusted.mine': 'x' }
  const layer = [{ name: 'file', body: 'x', uid: 1000, xattrs: { ...own, ...foreign } }]
  await applyLayer(tarOf(layer), join(dir, 'new'), { form: 'overlay', signal: quiet })
  let seen: Record<string, Buffer> = {}
  for await (const { name, xattrs } of readTar(
    readLayer(join(dir, 'new'), { form: 'overlay', signal: quiet }),
  ))
    if (name === 'file') seen = Object.fromEntries(xattrs)
  assert.deepEqual(seen, own)
})

test('a layer over a root file system removes what whiteouts say', async (t) => {
  const dir = await scratch(t)
  await mkdir(join(dir, 'root/a/b'), { recursive: true })
  await mkdir(join(dir, 'root/opaque'))
  for (const name of ['a/b/c', 'a/d', 'opaque/old', 'file', 'other'])
    await writeFile(join(dir, 'root', name), name)
  const layer: Spec[] = [
    { name: './' },
    { name: 'a/' },
    { name: 'a/.wh.b' },
    { name: 'file/' },
    { name: 'file/x', body: 'now a directory' },
    { name: 'new/' },
    { name: 'new/.wh..wh..opq' },
    { name: 'new/y' },
    { name: 'opaque/' },
    { name: 'opaque/.wh..wh..opq' },
    { name: 'opaque/new' },
  ]
  await applyLayer(tarOf(layer), join(dir, 'root'), { form: 'merged', signal: quiet })
  assert.deepEqual(Object.keys(await treeOf(join(dir, 'root'))).sort(), [
    'a',
    'a/d',
    'file',
    'file/x',
    'new',
    'new/y',
    'opaque',
    'opaque/new',
    'other',
  ])
})

test('nothing is laid through a symbolic link of the root file system', async (t) => {
  const dir = await scratch(t)
  await mkdir(join(dir, 'root'))
  await mkdir(join(dir, 'outside'))
  await symlink('../outside', join(dir, 'root/etc'))
  await applyLayer(tarOf([{ name: 'etc/' }, { name: 'etc/passwd', body: 'mine' }]), join(dir, 'root'), {
    form: 'merged',
    signal: quiet,
  })
  assert.deepEqual(await readdir(join(dir, 'outside')), [])
  assert.equal(await readFile(join(dir, 'root/etc/passwd'), 'utf8'), 'mine')
})

const hostile: Record<string, Spec[]> = {
  'a name with ..': [{ name: '../x' }],
  'a name with .. within': [{ name: 'a/../../x' }],
  'an absolute name': [{ name: '/etc/x' }],
  'a device': [{ name: 'sda', type: 'block' }],
  'a character device': [{ name: 'mem', type: 'char' }],
  'a hard link out': [{ name: 'x', type: 'link', link: '../../etc/shadow' }],
  'an absolute hard link': [{ name: 'x', type: 'link', link: '/etc/shadow' }],
  'a symbolic link out': [{ name: 'a/x', type: 'symlink', link: '../../x' }],
  'a file through a symbolic link': [
    { name: 'a', type: 'symlink', link: '/etc' },
    { name: 'a/passwd', body: 'x' },
  ],
  'a hard link through a symbolic link': [
    { name: 'a', type: 'symlink', link: '/etc' },
    { name: 'b', type: 'link', link: 'a/shadow' },
  ],
  'a file through a symbolic link that is a directory again': [
    { name: 'a', type: 'symlink', link: '/etc' },
    { name: 'a/' },
    { name: 'a/passwd', body: 'x' },
  ],
  'a whiteout of ..': [{ name: '.wh...' }],
  'a whiteout of .': [{ name: 'a/' }, { name: 'a/.wh..' }],
  'a whiteout with contents': [{ name: '.wh.x', body: 'x' }],
  'a file below a whiteout': [{ name: '.wh.x/y' }],
  'a root that is a link': [{ name: './', type: 'symlink', link: 'x' }],
  'a very long name': [{ name: `${'x'.repeat(200)}/`.repeat(30) }],
}

for (const [what, specs] of Object.entries(hostile)) {
  for (const form of ['overlay', 'plain', 'merged'] as const) {
    test(`${what} is refused and nothing is touched: ${form}`, async (t) => {
      const dir = await scratch(t)
      await mkdir(join(dir, 'in'))
      await writeFile(join(dir, 'in/here'), 'still')
      const before = await treeOf(dir)
      const layer = [{ name: 'first', body: 'good' }, ...specs, { name: 'last' }]
      await assert.rejects(applyLayer(tarOf(layer), join(dir, 'in'), { form, signal: quiet }), (error) =>
        isShoalError(error, 'DENIED'),
      )
      await assert.rejects(checkLayer(tarOf(layer), quiet), (error) => isShoalError(error, 'DENIED'))
      assert.deepEqual(await treeOf(dir), before)
    })
  }
}

test('an absurd size is refused before its bytes are asked for', async (t) => {
  const dir = await scratch(t)
  const layer = tarOf([{ name: 'huge', size: 2 ** 50 }])
  await assert.rejects(applyLayer(layer, join(dir, 'new'), { form: 'plain', signal: quiet }), (error) =>
    isShoalError(error, 'STORE_FULL', 'DENIED'),
  )
  assert.deepEqual(await readdir(dir), [])
})

for (const [what, bytes] of Object.entries({
  empty: Buffer.alloc(0),
  'no tar': Buffer.alloc(4096, 'x'),
  'cut off in a header': Buffer.alloc(300),
})) {
  test(`what is ${what} is refused`, async (t) => {
    const dir = await scratch(t)
    await assert.rejects(
      applyLayer(Readable.from([bytes]), join(dir, 'new'), { form: 'plain', signal: quiet }),
      (error) => isShoalError(error, 'PROTOCOL'),
    )
    assert.deepEqual(await readdir(dir), [])
  })
}

test('a tar that is cut off at any place is refused', async (t) => {
  const dir = await scratch(t)
  const whole = await bytesOf(tarOf([{ name: 'a/' }, { name: 'a/b', body: 'x'.repeat(700) }, { name: 'c' }]))
  for (let size = 0; size <= whole.length - 1024; size += 300)
    await assert.rejects(
      applyLayer(Readable.from([whole.subarray(0, size)]), join(dir, 'new'), {
        form: 'plain',
        signal: quiet,
      }),
      (error) => isShoalError(error, 'PROTOCOL'),
      `${size} bytes`,
    )
  assert.deepEqual(await readdir(dir), [])
})

test('who gives up is not kept by a source that says nothing', async (t) => {
  const dir = await scratch(t)
  const source = new Readable({ read() {} })
  source.push((await bytesOf(tarOf([{ name: 'a', body: 'x' }]))).subarray(0, 700))
  const stop = new AbortController()
  const applied = applyLayer(source, join(dir, 'new'), { form: 'plain', signal: stop.signal })
  setTimeout(() => stop.abort(), 100)
  await assert.rejects(applied, (error) => isShoalError(error, 'ABORTED'))
  assert.deepEqual(await readdir(dir), [])
})

test('what a layer cannot say is told, not left out', root, async (t) => {
  const dir = await scratch(t)
  const read = (form: 'overlay' | 'plain') => bytesOf(readLayer(dir, { form, signal: quiet }))
  await run('mknod', [join(dir, 'null'), 'c', '1', '3'], { signal: quiet })
  await assert.rejects(
    read('overlay'),
    (error) => isShoalError(error, 'UNFIT') && /\/null is a device/.test(error.message),
  )
  await rm(join(dir, 'null'))
  await writeFile(join(dir, '.wh.odd'), '')
  await assert.rejects(
    read('plain'),
    (error) => isShoalError(error, 'UNFIT') && /\.wh\.odd/.test(error.message),
  )
})

test('a directory that is not there, and what is hidden by a mount', async (t) => {
  const dir = await scratch(t)
  await assert.rejects(bytesOf(readLayer(join(dir, 'none'), { form: 'plain', signal: quiet })), (error) =>
    isShoalError(error, 'RUNTIME'),
  )
  for (const name of ['proc', 'dev/x', 'data']) await mkdir(join(dir, name), { recursive: true })
  for (const name of ['proc/1', 'dev/x/y', 'data/kept']) await writeFile(join(dir, name), '')
  const names: string[] = []
  const layer = readLayer(dir, { form: 'plain', hidden: ['/proc', '/dev/'], signal: quiet })
  for await (const { name } of readTar(layer)) names.push(name)
  assert.deepEqual(names, ['./', 'data/', 'data/kept', 'dev/', 'proc/'])
})
