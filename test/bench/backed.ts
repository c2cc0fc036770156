import { closeSync, ftruncateSync, openSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { MIB } from './scenarios/common.ts'

const STEP = 16 * MIB

/**
 * Runs `work` with free memory that the machine's host has backed: a file that is written before, and cut short bit by bit meanwhile.
 *
 * A virtual machine reports what is free to its host, which takes it away within 2 s and gives it again page by page at its first use. What is
 * written to the page cache then costs ten times as much (3 s instead of 0.3 s of CPU for 1 GiB), and a baseline that writes nothing does
 * not see it. So memory that becomes free long before it is used is no help: it must become free as it is used.
 *
 * @param bytes given back in all @param perSecond bytes a second @param from ms since the epoch at which it begins; default at once
 */
export async function withBackedMemory<T>(
  options: { dir: string; bytes: number; perSecond: number; from?: () => number },
  work: () => Promise<T>,
): Promise<T> {
  const { dir, bytes, perSecond, from = () => 0 } = options
  const path = join(dir, 'backed')
  const part = Buffer.alloc(MIB, 1)
  const fd = openSync(path, 'w')
  for (let done = 0; done < bytes; done += MIB) writeSync(fd, part)
  let left = bytes
  // Cut short and not removed in pieces: ext4 passes over inodes that were freed just now, one by one, whenever another file is made.
  const giving = setInterval(
    () => {
      if (Date.now() < from() || left === 0) return
      left = Math.max(0, left - STEP)
      ftruncateSync(fd, left)
    },
    (1000 * STEP) / perSecond,
  )
  try {
    return await work()
  } finally {
    clearInterval(giving)
    closeSync(fd)
    rmSync(path)
  }
}
