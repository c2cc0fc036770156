import { randomBytes } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { silentLog } from '../../../base/index.ts'
import { createStates, type StateFile } from '../../../integration/state/index.ts'
import type { Manager } from '../../../manager/index.ts'
import { createSwarm, type Swarm, type SwarmNode, type SwarmNodeOptions } from '../../manager/swarm.ts'

export type Contents = Record<string, Buffer>
export type TestStates = ReturnType<typeof createStates>

export interface StateNode extends SwarmNode {
  states: TestStates
  /** Directory of the states' own. */
  home: string
}

export interface Bench {
  dir: string
  swarm: Swarm
  add(options?: SwarmNodeOptions): Promise<StateNode>
  /** Writes files into a new directory, as a dump leaves them. */
  dump(contents: Contents): Promise<StateFile[]>
  /** A directory that is not there yet. */
  fresh(): string
}

export const signal = (): AbortSignal => AbortSignal.timeout(60_000)
export const origin = (manager: Manager) => (blob: { digest: Parameters<Manager['elsewhere']>[0] }) =>
  manager.elsewhere(blob.digest)

export async function createBench(t: { after(done: () => Promise<void>): void }): Promise<Bench> {
  const dir = await mkdtemp(join(tmpdir(), 'shoal-state-'))
  const swarm = await createSwarm()
  const open: TestStates[] = []
  let count = 0
  const fresh = (): string => join(dir, `${count++}`)
  t.after(async () => {
    for (const states of open) await states.close()
    await swarm.close()
    await rm(dir, { recursive: true, force: true })
  })
  return {
    dir,
    swarm,
    fresh,
    async add(options) {
      const node = await swarm.add(options)
      const home = fresh()
      const states = createStates({ manager: node.manager, store: node.store, dir: home, log: silentLog() })
      open.push(states)
      return Object.assign(node, { states, home })
    },
    async dump(contents) {
      const root = fresh()
      const files: StateFile[] = []
      for (const [path, bytes] of Object.entries(contents)) {
        const from = join(root, path)
        await mkdir(dirname(from), { recursive: true })
        await writeFile(from, bytes)
        files.push({ path, from })
      }
      return files
    },
  }
}

/** Pages of memory that do not compress. */
export const pages = (count: number): Buffer => randomBytes(count * 4096)

/** A directory's files by path. */
export function readFiles(root: string): Contents {
  const found: Contents = {}
  for (const entry of readdirSync(root, { recursive: true, withFileTypes: true })) {
    if (entry.isDirectory()) continue
    const path = join(entry.parentPath, entry.name)
    found[path.slice(root.length + 1)] = readFileSync(path)
  }
  return found
}
