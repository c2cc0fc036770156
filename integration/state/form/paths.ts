import { ShoalError } from '../../../base/index.ts'
import { LIMITS } from './limits.ts'

/** Ends the name of a file that is being made; no path may. */
export const STAGED = '.shoal-new'

/** Of one name: what file systems take, also while the file is being made. */
const MOST_BYTES = 255 - STAGED.length

/** NUL, and what a decoder puts where bytes are not UTF-8: two names would become one. */
const NOT_TEXT = /[\0\ufffd]/

/** Whether it is relative, without `.`, `..` and empty parts, and no longer than a file system takes. */
export function isPath(path: string): boolean {
  if (path === '' || Buffer.byteLength(path) > LIMITS.path || NOT_TEXT.test(path) || !path.isWellFormed())
    return false
  return path
    .split('/')
    .every(
      (part) =>
        part !== '' &&
        !part.endsWith(STAGED) &&
        part !== '.' &&
        part !== '..' &&
        Buffer.byteLength(part) <= MOST_BYTES,
    )
}

/** @throws PROTOCOL unless all are sound, in order, each once, and none is a directory of another */
export function checkPaths(paths: readonly string[]): void {
  const bad = (path: string): never => {
    throw new ShoalError(
      'PROTOCOL',
      `a state cannot have this path here: ${JSON.stringify(path.slice(0, 160))}`,
    )
  }
  const files = new Set<string>()
  for (const [index, path] of paths.entries()) {
    if (!isPath(path) || (index > 0 && (paths[index - 1] as string) >= path)) bad(path)
    for (let at = path.indexOf('/'); at >= 0; at = path.indexOf('/', at + 1)) {
      if (files.has(path.slice(0, at))) bad(path)
    }
    files.add(path)
  }
}
