import { randomBytes } from 'node:crypto'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { startOf } from './proc.ts'

const PREFIX = 'slab'
const NAME = new RegExp(`^${PREFIX}[0-9a-f]{6}$`)

/** What a lab is known by. Its namespaces are `NAME-…`, its files are in `dir`, its cgroups are called `NAME`. */
export interface LabName {
  name: string
  dir: string
}

/** Names a new lab and notes who owns it, so that a lab whose owner died can be told from a live one. */
export function nameLab(): LabName {
  const name = PREFIX + randomBytes(3).toString('hex')
  const dir = join(tmpdir(), name)
  mkdirSync(dir, { mode: 0o755 })
  writeFileSync(
    join(dir, 'lab.json'),
    JSON.stringify({ name, pid: process.pid, started: startOf(process.pid) }),
  )
  return { name, dir }
}

/** Labs on this machine, and whether their owner still runs. */
export function listLabs(): (LabName & { live: boolean })[] {
  const labs: (LabName & { live: boolean })[] = []
  for (const name of readdirSync(tmpdir())) {
    if (!NAME.test(name)) continue
    const dir = join(tmpdir(), name)
    labs.push({ name, dir, live: ownerLives(dir) })
  }
  return labs
}

function ownerLives(dir: string): boolean {
  try {
    const { pid, started } = JSON.parse(readFileSync(join(dir, 'lab.json'), 'utf8')) as {
      pid: number
      started: number
    }
    return startOf(pid) === started
  } catch {
    return false
  }
}
