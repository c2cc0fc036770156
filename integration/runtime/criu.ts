import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { lastLines } from './run.ts'

/** CRIU's own last words, out of `dump.log` or `restore.log` in its work directory; '' when there are none. */
export async function criuWords(workDir: string, log: 'dump.log' | 'restore.log'): Promise<string> {
  const text = await readFile(join(workDir, log), 'utf8').catch(() => '')
  const errors = text
    .split('\n')
    .filter((line) => line.includes('Error'))
    // `(00.012345) Error (criu/file.c:12): what` without where.
    .map((line) => line.replace(/^\([\d.]+\)\s*/, '').replace(/^(.*?)Error \([^)]*\): /, '$1'))
  return lastLines(errors.join('\n'), 3)
}
