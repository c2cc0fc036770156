import { execFile } from 'node:child_process'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { isShoalError, ShoalError } from '../../base/index.ts'
import { isLoopbackName } from '../address.ts'
import * as containerd from './containerd.ts'
import * as docker from './docker.ts'
import { readBelow } from './journal.ts'
import * as podman from './podman.ts'
import { argumentsOf } from './processes.ts'
import type { FileEdit, MirrorOptions, MirrorPlan } from './types.ts'

/** The format that the installed containerd would write itself. 2.x reads version 2 as well. */
async function containerdFormat(): Promise<number> {
  try {
    const { stdout } = await promisify(execFile)('containerd', ['--version'], { timeout: 10e3 })
    return / v?2\.\d+/.test(stdout) ? 3 : 2
  } catch {
    return 2
  }
}

async function subdirectories(path: string): Promise<string[]> {
  const entries = await readdir(path, { withFileTypes: true }).catch(() => [])
  return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name)
}

export async function planContainerd(root: string, { registry, hosts }: MirrorOptions): Promise<MirrorPlan> {
  const config = (await readBelow(root, containerd.CONFIG))?.toString()
  const directory = containerd.certsDirectory(config) ?? containerd.CERTS
  // A configuration that says something says its version, too.
  const blank = !/^\s*[^#\s]/m.test(config ?? '')
  const names = hosts.length > 0 ? hosts : ['_default']
  const notes: string[] = []
  if (hosts.length === 0) {
    for (const name of await subdirectories(join(root, directory))) {
      if (name === '_default') continue
      notes.push(
        `${name} has a hosts.toml of its own and does not go through Shoal; add it with --host ${name}`,
      )
    }
  }
  return {
    edits: [
      containerd.configEdit(blank ? await containerdFormat() : 2),
      ...names.map((name) => containerd.hostsEdit(`${directory}/${name}/hosts.toml`, `http://${registry}`)),
    ],
    notes,
  }
}

export async function planDocker(root: string, { registry, hosts }: MirrorOptions): Promise<MirrorPlan> {
  const notes: string[] = []
  if (hosts.some((host) => host !== 'docker.io')) {
    throw new ShoalError(
      'USAGE',
      `docker has mirrors for docker.io only; pull others as ${registry}/HOST/NAME`,
    )
  }
  if (root === '/') {
    for (const args of await argumentsOf('dockerd')) {
      const flag = args.find((arg) => /^--(registry-mirror|insecure-registry)\b/.test(arg))
      if (flag?.startsWith('--registry-mirror')) {
        throw new ShoalError(
          'CONFIG',
          `dockerd runs with ${flag.split('=')[0]}: it does not start with the same setting in ${docker.CONFIG}; remove the flag first`,
        )
      }
      const at = args.findIndex((arg) => arg.startsWith('--config-file'))
      const file = args[at]?.split('=')[1] ?? (at >= 0 ? args[at + 1] : undefined)
      if (file !== undefined && file !== docker.CONFIG) {
        notes.push(`a dockerd runs with --config-file ${file} and does not read ${docker.CONFIG}`)
      }
    }
  }
  notes.push(`docker sends only docker.io to mirrors; pull others as ${registry}/HOST/NAME`)
  return { edits: [dockerEdit(registry)], notes }
}

function dockerEdit(registry: string): FileEdit {
  const host = registry.slice(0, registry.lastIndexOf(':'))
  return docker.daemonEdit(`http://${registry}`, isLoopbackName(host) ? undefined : registry)
}

export async function planPodman(root: string, { registry, hosts }: MirrorOptions): Promise<MirrorPlan> {
  const directory = `${podman.MAIN}.d`
  const dropIns = (await readdir(join(root, directory)).catch(() => []))
    .filter((name) => name.endsWith('.conf'))
    .map((name) => `${directory}/${name}`)
    .filter((path) => path !== podman.CONFIG)
    .sort()
  const names = hosts.length > 0 ? hosts : ['docker.io']
  const notes: string[] = []
  const known: ReturnType<typeof podman.readEntries> = []
  for (const path of [podman.MAIN, ...dropIns]) {
    const text = (await readBelow(root, path))?.toString()
    if (text === undefined) continue
    let entries: typeof known
    try {
      entries = podman.readEntries(text, path)
    } catch (error) {
      // A file that podman itself may take, but that has none of the entries that matter here.
      if (path === podman.MAIN || !isShoalError(error)) throw error
      notes.push(error.message)
      continue
    }
    known.push(...entries)
    for (const { prefix } of entries) {
      if (!names.includes(prefix) || path < podman.CONFIG) continue
      notes.push(`${path} has ${prefix} too and comes later: it counts, not Shoal's`)
    }
  }
  return { edits: [podman.dropInEdit(names, registry, known)], notes }
}

/**
 * The edits that take Shoal out again: for the files that an install touched, or, without a journal, for where it would
 * have put them. Nothing here refuses: what hinders an install must not hinder its undoing.
 */
export async function reverseEdits(
  runtime: 'containerd' | 'docker' | 'podman',
  root: string,
  { registry, hosts }: MirrorOptions,
  touched: string[] | undefined,
): Promise<FileEdit[]> {
  if (runtime === 'docker') return [dockerEdit(registry)]
  if (runtime === 'podman') return [podman.dropInEdit([], registry, [])]
  const paths = touched ?? [containerd.CONFIG, ...(await hostsFiles(root, hosts))]
  return paths.map((path) =>
    path === containerd.CONFIG ? containerd.configEdit(2) : containerd.hostsEdit(path, `http://${registry}`),
  )
}

async function hostsFiles(root: string, hosts: string[]): Promise<string[]> {
  const config = (await readBelow(root, containerd.CONFIG))?.toString()
  const directory = certsOrDefault(config)
  const names = hosts.length > 0 ? hosts : await subdirectories(join(root, directory))
  return names.map((name) => `${directory}/${name}/hosts.toml`)
}

function certsOrDefault(config: string | undefined): string {
  try {
    return containerd.certsDirectory(config) ?? containerd.CERTS
  } catch {
    return containerd.CERTS
  }
}
