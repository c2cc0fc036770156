import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { describe, test } from 'node:test'
import { completionScript } from '../../cli/completion.ts'
import { createProgram, SHELLS } from '../../cli/program.ts'

const program = createProgram({
  io: { out: new PassThrough(), err: new PassThrough() },
  env: {},
  signal: new AbortController().signal,
})

function missing(shell: string): string | false {
  return spawnSync(shell, ['-c', 'true']).status === 0 ? false : `${shell} is not installed`
}

/** What bash would offer for the last of the words. */
function bash(...words: string[]): string[] {
  const line = words.map((word) => `'${word}'`).join(' ')
  const script = `${completionScript(program, 'bash')}
COMP_WORDS=(${line}); COMP_CWORD=${words.length - 1}; _shoal; printf '%s\\n' "\${COMPREPLY[@]}"`
  const { stdout, stderr, status } = spawnSync('bash', ['--norc', '-euc', script], { encoding: 'utf8' })
  assert.equal(status, 0, stderr)
  return stdout.split('\n').filter((word) => word !== '')
}

describe('completion', () => {
  test('bash: commands, options, arguments and values', { skip: missing('bash') }, () => {
    assert.deepEqual(bash('shoal', 'p'), ['pull', 'peers', 'pin'])
    assert.deepEqual(bash('shoal', 'mirror', ''), ['install', 'uninstall'])
    assert.deepEqual(bash('shoal', 'mirror', 'install', ''), ['containerd', 'docker', 'podman'])
    assert.deepEqual(bash('shoal', 'mirror', 'uninstall', '--re'), ['--reload'])
    assert.deepEqual(bash('shoal', 'serve', '--offline', ''), ['deny', 'known', 'open'])
    assert.deepEqual(bash('shoal', 'serve', '--offline', 'open', '--mdn'), ['--mdns'])
    assert.deepEqual(bash('shoal', 'serve', '--site', ''), [])
    assert.deepEqual(bash('shoal', 'completion', 'z'), ['zsh'])
    assert.ok(bash('shoal', 'serve', '--config', '/etc/host').includes('/etc/hosts'))
  })

  for (const shell of SHELLS) {
    test(`${shell} takes the script`, { skip: missing(shell) }, (t) => {
      const dir = mkdtempSync(join(tmpdir(), 'shoal-completion-'))
      t.after(() => rmSync(dir, { recursive: true }))
      const file = join(dir, `completion.${shell}`)
      writeFileSync(file, completionScript(program, shell))
      const { status, stderr } = spawnSync(shell, ['-n', file], { encoding: 'utf8' })
      assert.deepEqual([status, stderr], [0, ''])
    })

    test(`${shell}'s script knows every command and option`, () => {
      const script = completionScript(program, shell)
      for (const word of ['serve', 'uninstall', 'podman', 'upload-rate', 'deny', 'platform']) {
        assert.ok(script.includes(word), word)
      }
    })
  }
})
