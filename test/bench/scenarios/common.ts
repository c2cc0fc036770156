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
