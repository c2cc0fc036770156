import { closeSync, constants, openSync } from 'node:fs'

const MOST = 64

/** Files open for writing, the ones used last. `check` throws when they are not to be written any more. */
export function createFds(pathOf: (file: number) => string, check: () => void) {
  const open = new Map<number, number>()
  return {
    get(file: number): number {
      const known = open.get(file)
      if (known !== undefined) return known
      check()
      const oldest = open.keys().next().value
      if (open.size >= MOST && oldest !== undefined) {
        closeSync(open.get(oldest) as number)
        open.delete(oldest)
      }
      const fd = openSync(pathOf(file), constants.O_WRONLY | constants.O_NOFOLLOW)
      open.set(file, fd)
      return fd
    },
    close(): void {
      for (const fd of open.values()) closeSync(fd)
      open.clear()
    },
  }
}
