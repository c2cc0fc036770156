import { isShoalError } from '../../base/index.ts'
import { lastLines, run } from './run.ts'

const PROBE_MS = 20_000

/** The OCI runtime and the CRIU of this machine, and why they are of no use where they are not, a sentence each. */
export interface OciFacts {
  oci: { name: string; version: string }
  criu: string | undefined
  why: string[]
}

/** Asks the programs themselves: a CRIU may be installed that does not start on this kernel. Throws only ABORTED. */
export async function ociFacts({
  runc = 'runc',
  criu = 'criu',
  signal,
}: {
  runc?: string | undefined
  criu?: string | undefined
  signal: AbortSignal
}): Promise<OciFacts> {
  const why: string[] = []
  const ask = async (command: string, args: string[]): Promise<string | undefined> => {
    try {
      return (await run(command, args, { signal, timeoutMs: PROBE_MS })).stdout
    } catch (error) {
      if (isShoalError(error, 'ABORTED')) throw error
      why.push((error as Error).message)
      return undefined
    }
  }
  const [about, version, checked, tar] = await Promise.all([
    ask(runc, ['--version']),
    ask(criu, ['--version']),
    ask(criu, ['check']),
    ask('tar', ['--version']),
  ])
  const [, name = runc.split('/').at(-1) ?? runc, number = ''] =
    /^(\S+) version (\S+)/.exec(about ?? '') ?? []
  if (name === 'crun' && !about?.includes('+CRIU')) why.push('crun was built without CRIU')
  if (tar !== undefined && !tar.includes('GNU tar'))
    why.push('the tar of this machine is not GNU tar, which reads and writes writable layers')
  const found = /^Version: (\S+)/m.exec(version ?? '')?.[1]
  return {
    oci: { name, version: number },
    criu: checked === undefined ? undefined : found,
    why: [...new Set(why)].map((reason) => lastLines(reason, 1)),
  }
}
