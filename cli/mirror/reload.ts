import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { ShoalError } from '../../base/index.ts'
import type { Runtime } from './index.ts'

const run = promisify(execFile)

/** What a person would type, for the message when nobody asked us to do it. */
export const RELOAD_HINTS: Record<Runtime, string | undefined> = {
  containerd: 'containerd must be restarted to notice: systemctl restart containerd (or use --reload)',
  docker: 'docker must read its configuration anew: systemctl reload docker (or use --reload)',
  podman: undefined,
}

async function systemctl(verb: string, unit: string): Promise<string> {
  try {
    await run('systemctl', [verb, unit], { timeout: 60e3 })
    return `systemctl ${verb} ${unit}: done`
  } catch (cause) {
    const { stderr = '' } = cause as { stderr?: string }
    throw new ShoalError('INTERNAL', `systemctl ${verb} ${unit} failed: ${stderr.trim()}`, { cause })
  }
}

/** Without systemd: SIGHUP to the process that docker's pid file names, if it is one. */
async function hangUp(root: string): Promise<string> {
  for (const file of ['/run/docker.pid', '/var/run/docker.pid']) {
    const pid = Number((await readFile(join(root, file), 'utf8').catch(() => '')).trim())
    if (!Number.isInteger(pid) || pid <= 1) continue
    const name = (await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '')).trim()
    if (name !== 'dockerd') continue
    process.kill(pid, 'SIGHUP')
    return `sent SIGHUP to dockerd (process ${pid})`
  }
  throw new ShoalError('NOT_FOUND', `no running dockerd is named in ${join(root, '/run/docker.pid')}`)
}

/** Makes the runtime read its configuration anew; tells what was done. @throws ShoalError INTERNAL | NOT_FOUND */
export async function reloadRuntime(runtime: Runtime, root: string): Promise<string> {
  if (runtime === 'podman') return 'podman reads its configuration at each start'
  const systemd = root === '/' && existsSync('/run/systemd/system')
  if (runtime === 'docker') return systemd ? await systemctl('reload', 'docker') : await hangUp(root)
  if (systemd) return await systemctl('restart', 'containerd')
  throw new ShoalError('NOT_FOUND', 'containerd cannot be restarted without systemd: restart it by hand')
}
