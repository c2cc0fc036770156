import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Host, type Service, start, until } from '../../lab/index.ts'

/** nginx on a host, serving the files of a directory of its own: the yardstick for plain transfers. */
export interface Nginx {
  root: string
  service: Service
  url(host: string, file: string): string
}

export async function startNginx(host: Host): Promise<Nginx> {
  const dir = join(host.dir, 'nginx')
  const root = join(dir, 'root')
  mkdirSync(root, { recursive: true })
  const config = join(dir, 'nginx.conf')
  const temp = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    (kind) => `${kind}_temp_path ${dir}/${kind};`,
  )
  writeFileSync(
    config,
    `daemon off; worker_processes 1; user root; pid ${dir}/pid; error_log ${dir}/error.log;
events {}
http { access_log off; sendfile on; tcp_nopush on; ${temp.join(' ')} server { listen 8080; root ${root}; } }
`,
  )
  const service = start(['nginx', '-c', config, '-e', `${dir}/error.log`], {
    netns: host.netns,
    log: join(dir, 'nginx.log'),
  })
  const probe = ['curl', '-s', '-o', '/dev/null', 'http://127.0.0.1:8080/']
  await until('nginx answers', async () => (await host.exec(probe, { mayFail: true })).code === 0)
  return { root, service, url: (address, file) => `http://${address}:8080/${file}` }
}

/** ms that curl takes for a whole body, bytes thrown away. */
export async function curlMs(host: Host, url: string): Promise<{ ms: number; bytes: number }> {
  const { stdout } = await host.exec([
    'curl',
    '-sf',
    '-o',
    '/dev/null',
    '-w',
    '%{time_total} %{size_download}',
    url,
  ])
  const [time, bytes] = stdout.split(' ').map(Number)
  return { ms: time! * 1000, bytes: bytes! }
}
