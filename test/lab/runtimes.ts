import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { type RunOptions, type RunResult, run, type Service, start, until } from './sh.ts'

/** Where a runtime of a host lives: its namespace, a directory of its own, the lab's name for cgroups. */
export interface RuntimePlace {
  netns: string
  dir: string
  lab: string
}

type Command = (args: string[], options?: RunOptions) => Promise<RunResult>

export interface Containerd {
  service: Service
  address: string
  /** What it keeps its content below. */
  root: string
  /** Its directory of `HOST/hosts.toml`, given to `ctr images pull --hosts-dir`. */
  hostsDir: string
  ctr: Command
  /** Writes hosts.toml for `host`, with the mirrors in order of preference. */
  mirror(host: string, urls: string[]): void
  /** `ctr images pull` through hosts.toml. */
  pull(image: string, options?: RunOptions): Promise<RunResult>
  /** Runs the image's command to its end, without a network of its own. */
  runImage(image: string, command?: string[]): Promise<RunResult>
  stop(): Promise<void>
}

/** Garbage is collected after each change, not after a hundred. */
function discarding(hostsDir: string): string[] {
  return [
    '[plugins."io.containerd.grpc.v1.cri".containerd]',
    'discard_unpacked_layers = true',
    '[plugins."io.containerd.grpc.v1.cri".registry]',
    `config_path = "${hostsDir}"`,
    '[plugins."io.containerd.gc.v1.scheduler"]',
    'deletion_threshold = 1',
    'mutation_threshold = 1',
  ]
}

/**
 * The command line that has runc's containers in a directory of their own: containerd has it keep them by ID at one place of the
 * machine, and two hosts may have containers of the same ID.
 */
function apart(host: string, dir: string, command: string[]): string[] {
  const place = '/run/containerd/runc'
  for (const path of [dir, place]) mkdirSync(path, { recursive: true })
  // What a daemon of this host mounts (network namespaces of pods) must be seen there, though it was mounted later and elsewhere.
  const share = 'mountpoint -q "$1" || mount --bind --make-shared "$1" "$1"'
  const bind = `mount --bind "$0" ${place} && shift && exec "$@"`
  const script = `${share} && exec unshare --mount --propagation slave sh -c '${bind}' "$0" "$@"`
  return ['sh', '-c', script, dir, host, ...command]
}

/**
 * A containerd of its own: root, state, socket and hosts.toml below `dir`.
 * @param alone nobody else mounts for it: dockerd does, where it could not see it
 * @param discard with the kubelet's interface, by which layers are removed once they are unpacked
 */
export async function startContainerd(
  place: RuntimePlace,
  { alone = true, discard = false }: { alone?: boolean; discard?: boolean } = {},
): Promise<Containerd> {
  const { netns, dir, lab } = place
  const hostsDir = join(dir, 'certs.d')
  mkdirSync(hostsDir, { recursive: true })
  const address = join(dir, 'containerd.sock')
  const config = join(dir, 'config.toml')
  const root = join(dir, 'root')
  writeFileSync(
    config,
    [
      'version = 2',
      `root = "${root}"`,
      `state = "${join(dir, 'state')}"`,
      `disabled_plugins = [${discard ? '' : '"io.containerd.grpc.v1.cri", '}"io.containerd.internal.v1.opt"]`,
      '[grpc]',
      `address = "${address}"`,
      ...(discard ? discarding(hostsDir) : []),
      '',
    ].join('\n'),
  )
  const command = ['containerd', '--config', config]
  const service = start(alone ? apart(dirname(dir), join(dir, 'runc'), command) : command, {
    netns,
    log: join(dir, 'containerd.log'),
  })
  const ctr: Command = (args, options) => run(['ctr', '--address', address, ...args], { netns, ...options })
  await until(
    'containerd answers',
    async () => existsSync(address) && (await ctr(['version'], { mayFail: true })).code === 0,
  )
  let containers = 0
  return {
    service,
    address,
    root,
    hostsDir,
    ctr,
    mirror(host, urls) {
      mkdirSync(join(hostsDir, host), { recursive: true })
      const blocks = urls.map((url) => `[host."${url}"]\n  capabilities = ["pull", "resolve"]\n`)
      writeFileSync(join(hostsDir, host, 'hosts.toml'), blocks.join('\n'))
    },
    pull: (image, options) => ctr(['images', 'pull', '--hosts-dir', hostsDir, image], options),
    runImage: (image, command = []) =>
      ctr(['run', '--rm', '--cgroup', `${lab}/ctr${++containers}`, image, `run${containers}`, ...command]),
    stop: async () => void (await service.stop()),
  }
}

export interface Dockerd {
  service: Service
  socket: string
  docker: Command
  runImage(image: string, command?: string[]): Promise<RunResult>
  stop(): Promise<void>
}

/**
 * A dockerd with a containerd of its own; `mirrors` are its registry-mirrors.
 * @param bridge with one, and the rules that it takes; default: without both
 */
export async function startDockerd(
  place: RuntimePlace,
  options: { mirrors?: string[]; insecure?: string[]; flags?: string[]; bridge?: boolean } = {},
): Promise<Dockerd> {
  const { netns, dir, lab } = place
  const containerd = await startContainerd({ ...place, dir: join(dir, 'ctd') }, { alone: false })
  const socket = join(dir, 'docker.sock')
  const flags = [
    ...['--data-root', join(dir, 'data'), '--exec-root', join(dir, 'exec'), '-H', `unix://${socket}`],
    ...[
      '--pidfile',
      join(dir, 'docker.pid'),
      '--containerd',
      containerd.address,
      '--config-file',
      join(dir, 'none.json'),
    ],
    ...['--ip6tables=false', '--cgroup-parent', `/${lab}`],
    ...(options.bridge ? [] : ['--bridge', 'none', '--iptables=false']),
    ...(options.mirrors ?? []).flatMap((url) => ['--registry-mirror', url]),
    ...(options.insecure ?? []).flatMap((host) => ['--insecure-registry', host]),
    ...(options.flags ?? []),
  ]
  writeFileSync(join(dir, 'none.json'), '{}')
  const service = start(['dockerd', ...flags], { netns, log: join(dir, 'dockerd.log') })
  // The client that came with the daemon: a newer one may refuse the daemon's API.
  const client = existsSync('/usr/bin/docker') ? '/usr/bin/docker' : 'docker'
  const docker: Command = (args, opts) => run([client, '-H', `unix://${socket}`, ...args], { netns, ...opts })
  await until(
    'dockerd answers',
    async () => existsSync(socket) && (await docker(['version'], { mayFail: true })).code === 0,
    { timeoutMs: 60_000 },
  )
  return {
    service,
    socket,
    docker,
    runImage: (image, command = []) => docker(['run', '--rm', '--network', 'none', image, ...command]),
    async stop() {
      await service.stop(15_000)
      await containerd.stop()
    },
  }
}

export interface Podman {
  podman: Command
  runImage(image: string, command?: string[]): Promise<RunResult>
}

/** podman with storage of its own; it needs no daemon. `mirrors` are registries.conf's: what stands in for docker.io. */
export function createPodman(place: RuntimePlace, options: { mirrors?: string[] } = {}): Podman {
  const { netns, dir, lab } = place
  mkdirSync(dir, { recursive: true })
  const registries = join(dir, 'registries.conf')
  const mirrors = (options.mirrors ?? []).map(
    (location) => `[[registry.mirror]]\nlocation = "${location}"\ninsecure = true\n`,
  )
  writeFileSync(registries, `[[registry]]\nlocation = "docker.io"\n${mirrors.join('')}`)
  const global = [
    ...['--root', join(dir, 'root'), '--runroot', join(dir, 'run'), '--tmpdir', join(dir, 'tmp')],
    ...['--cgroup-manager', 'cgroupfs', '--events-backend', 'none', '--storage-driver', 'overlay'],
  ]
  const env = { TMPDIR: dir, CONTAINERS_REGISTRIES_CONF: registries }
  const podman: Command = (args, opts) => run(['podman', ...global, ...args], { netns, env, ...opts })
  // Without CAP_SYS_RESOURCE the limits that podman would raise must be stated; crun may lack what runc has.
  const fit = ['--runtime', 'runc', '--ulimit', 'nofile=1024:1024', '--ulimit', 'nproc=4096:4096']
  return {
    podman,
    runImage: (image, command = []) =>
      podman(['run', '--rm', '--network', 'none', ...fit, '--cgroup-parent', `/${lab}`, image, ...command]),
  }
}
