import { mkdir, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { errnoOf, type Log } from '../../base/index.ts'

/** What runc gives CRIU for every container that names no configuration of its own. */
const RUNC_CONF = '/etc/criu/runc.conf'
const SKIP = 'skip-in-flight'
/** Names the configuration that runc gives CRIU for this container; one that is not there is ignored. */
export const ANNOTATION = 'org.criu.config'

/**
 * Has CRIU pass over connections that a server has not accepted yet: whoever connects to one that is frozen makes such, and CRIU fails on them
 * otherwise. Clients connect anew. A file that is there is an administrator's, and left alone.
 */
export async function skipInFlight(log: Log): Promise<void> {
  try {
    await mkdir(dirname(RUNC_CONF), { recursive: true })
    await writeFile(RUNC_CONF, `# By Shoal, for the dump of servers in use.\n${SKIP}\n`, { flag: 'wx' })
    log.info({ path: RUNC_CONF }, 'CRIU passes over connections that are not accepted yet')
  } catch (error) {
    if (errnoOf(error) === 'EEXIST') return
    log.warn({ path: RUNC_CONF, error: String(error) }, 'servers in use may not be dumped')
  }
}

/** The path of a configuration for restoring, and for later dumps of what was restored. */
export async function restoreConfig(dir: string, tcpEstablished: boolean): Promise<string> {
  const path = join(dir, tcpEstablished ? 'criu-established.conf' : 'criu-close.conf')
  await writeFile(path, `${tcpEstablished ? 'tcp-established' : 'tcp-close'}\n${SKIP}\n`)
  return path
}
