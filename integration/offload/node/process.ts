import { readFile } from 'node:fs/promises'

/** True while the process is there and has not ended. A pid alone is no proof after a restart of the machine: the runtime is asked then. */
export async function isRunning(pid: number): Promise<boolean> {
  try {
    const text = await readFile(`/proc/${pid}/stat`, 'latin1')
    const state = text.charAt(text.lastIndexOf(')') + 2)
    return state !== 'Z' && state !== 'X'
  } catch {
    return false
  }
}
