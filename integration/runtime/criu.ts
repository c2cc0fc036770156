import { readFile } from 'node:fs/promises'
import { join } from 'node:path'

/** CRIU's own words, out of `dump.log` or `restore.log` in its work directory: see `wordsIn`. */
export async function criuWords(workDir: string, log: 'dump.log' | 'restore.log'): Promise<string> {
  return wordsIn(join(workDir, log))
}

/** It goes on without, or has said why before. */
const NOTHING_NEW = /rlimit: Can't setup|(?:Restoring|Dumping) FAILED/

/** The first errors in a log of CRIU's, as what came later mostly came of them; '' when there are none, or no log. */
export async function wordsIn(log: string): Promise<string> {
  const text = await readFile(log, 'utf8').catch(() => '')
  return (
    text
      .split('\n')
      .filter((line) => line.includes('Error') && !NOTHING_NEW.test(line))
      // `(00.012345) Error (criu/file.c:12): what` without where.
      .map((line) =>
        line
          .replace(/^\([\d.]+\)\s*/, '')
          .replace(/^(.*?)Error \([^)]*\): /, '$1')
          .trim(),
      )
      .slice(0, 3)
      .join('; ')
      .slice(0, 600)
  )
}
