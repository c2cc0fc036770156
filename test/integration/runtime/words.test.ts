import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { wordsIn } from '../../../integration/runtime/criu.ts'
import { parseMounts } from '../../../integration/runtime/mounts.ts'
import { scratch } from './layer-support.ts'

test('of CRIU’s log the first errors are told, without what says nothing', async (t) => {
  const path = join(await scratch(t), 'restore.log')
  const log = [
    '(00.000001) Version: 4.2.1 (gitid 0)',
    "(00.000002) Error (criu/rlimit.c:1): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted",
    "(00.000003)      1: Error (criu/files-reg.c:2143): Can't open file /x: No such file or directory",
    '(00.000004) Warn  (criu/x.c:1): Error is a word',
    '(00.000005) Error (criu/cr-restore.c:2500): Restoring FAILED.',
  ]
  await writeFile(path, log.join('\n'))
  assert.match(await wordsIn(path), /^1: Can't open file \/x: No such file or directory(; .*)?$/)
  assert.equal(await wordsIn(`${path}.none`), '')
})

test('mounts are read with the names that their paths have', () => {
  const [top, below] = parseMounts(
    [
      '22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw',
      '87 22 0:50 / /a\\040b/r\\303\\274 rw,relatime - overlay overlay rw,lowerdir=/l\\054x,upperdir=/u,workdir=/w',
      '',
    ].join('\n'),
  )
  assert.equal(top?.path, '/a b/rü')
  assert.equal(top?.type, 'overlay')
  assert.equal(top?.options.get('lowerdir'), '/l,x')
  assert.equal(top?.options.get('upperdir'), '/u')
  assert.equal(below?.path, '/')
})
