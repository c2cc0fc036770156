import { closeSync, openSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { createLab, type Lab, type LabOptions, type PullReport, type Site } from '../../lab/index.ts'
import { mebibytes, type Row } from '../report.ts'

export const MIB = 2 ** 20

export const rate = (bytesPerMs: number): string => `${((bytesPerMs * 8) / 1000).toFixed(0)} Mbit/s`

/** An image of `mib` in `layers` equal layers. */
export function layersOf(mib: number, layers: number): number[] {
  return Array.from({ length: layers }, () => (mib / layers) * MIB)
}

export async function inLab<T>(options: LabOptions, body: (lab: Lab) => Promise<T>): Promise<T> {
  const lab = await createLab(options)
  const interrupted = (): void => void lab.destroy().then(() => process.exit(130))
  process.once('SIGINT', interrupted)
  try {
    return await body(lab)
  } finally {
    process.off('SIGINT', interrupted)
    await lab.destroy()
  }
}

/**
 * Has `bytes` of the machine's free memory backed by its host, by a file that is written and removed. A virtual machine's host takes free memory back, and
 * gives it again page by page at its first use: what is written to the page cache then costs three times as much (1.5 s instead of 0.5 s
 * of CPU for 256 MiB), which nginx's baseline, that writes nothing, does not see.
 */
export function warmMemory(dir: string, bytes: number): void {
  const file = join(dir, 'warm')
  const part = Buffer.alloc(MIB, 1)
  const fd = openSync(file, 'w')
  for (let left = bytes; left > 0; left -= MIB) writeSync(fd, part)
  closeSync(fd)
  rmSync(file)
}

export function mustBeOk(report: PullReport): PullReport {
  if (!report.ok) throw new Error(`a pull failed: ${report.error}`)
  return report
}

export async function direct(
  lab: Lab,
  host: number,
  name: string,
  tag: string,
  concurrency = 3,
): Promise<PullReport> {
  const base = `${lab.cloud.registry}/v2`
  return mustBeOk(await lab.hosts[host]!.pull({ base, name, reference: tag, concurrency }))
}

/** The highest resident memory of any daemon so far. */
export function memoryRow(what: string, site: Site): Row {
  const peak = Math.max(...site.nodes.map((node) => node.peakRss()))
  return {
    criterion: '7',
    what: `memory of a daemon: ${what}`,
    baseline: '-',
    shoal: mebibytes(peak),
    figure: mebibytes(peak),
    target: '< 150 MiB',
    ok: peak < 150 * MIB,
  }
}
