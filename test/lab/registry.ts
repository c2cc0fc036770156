import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { run, type Service, start, until } from './sh.ts'

/** The only user of a private registry in a lab, `lab` with password `lab-secret`, as an htpasswd line (bcrypt, cost 5). */
const HTPASSWD = 'lab:$2b$05$abcdefghijklmnopqrstuuPtNTphIlilWp9q1wz4rhnWoBpMvGZkq\n'
export const LAB_USER = 'lab:lab-secret'

export interface RegistryOptions {
  /** Namespace, directory and address to serve in. Without a namespace it is the machine's own: loopback, then. */
  netns?: string
  dir: string
  address: string
  port: number
  private: boolean
}

/** Debian's docker-registry (distribution 2.8) with a file system of its own, over plain HTTP. */
export async function startRegistry(options: RegistryOptions): Promise<Service> {
  const { dir, address, port } = options
  const within = options.netns === undefined ? {} : { netns: options.netns }
  mkdirSync(dir, { recursive: true })
  const settings: Record<string, unknown> = {
    version: 0.1,
    log: { level: 'warn', accesslog: { disabled: true } },
    storage: {
      filesystem: { rootdirectory: join(dir, 'data') },
      cache: { blobdescriptor: 'inmemory' },
      delete: { enabled: true },
      maintenance: { uploadpurging: { enabled: false } },
    },
    http: { addr: `${address}:${port}`, secret: 'lab' },
  }
  if (options.private) {
    const path = join(dir, 'htpasswd')
    writeFileSync(path, HTPASSWD)
    settings.auth = { htpasswd: { realm: 'lab', path } }
  }
  // JSON is YAML, too.
  writeFileSync(join(dir, 'config.yml'), JSON.stringify(settings))
  const service = start(['docker-registry', 'serve', join(dir, 'config.yml')], {
    ...within,
    log: join(dir, 'registry.log'),
  })
  await until('docker-registry answers', async () => {
    const probe = ['curl', '-s', '-o', '/dev/null', '-w', '%{http_code}', `http://${address}:${port}/v2/`]
    const { stdout } = await run(probe, { ...within, mayFail: true })
    return stdout === '200' || stdout === '401'
  })
  return service
}
