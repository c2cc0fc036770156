import { resolve } from 'node:path'
import { formatHostPort, parseHostPort, reachable } from '../address.ts'
import { loadConfig } from '../config.ts'
import {
  installMirror,
  type MirrorOptions,
  type MirrorResult,
  RELOAD_HINTS,
  type Runtime,
  reloadRuntime,
  uninstallMirror,
} from '../mirror/index.ts'
import { print, printJson } from '../output.ts'
import type { Context } from './context.ts'

export interface MirrorFlags {
  root: string
  registry?: string
  host?: string[]
  reload?: boolean
  json?: boolean
}

async function optionsOf(context: Context, flags: MirrorFlags): Promise<MirrorOptions> {
  const at =
    flags.registry === undefined
      ? (await loadConfig({ flags: {}, env: context.env, file: context.env.SHOAL_CONFIG })).registry
      : parseHostPort(flags.registry.replace(/^http:\/\/|\/+$/g, ''))
  return { registry: formatHostPort(reachable(at)), hosts: [...new Set(flags.host)] }
}

async function finish(context: Context, flags: MirrorFlags, result: MirrorResult): Promise<void> {
  const runtime = result.runtime as Runtime
  // hosts.toml is read at each pull; only the file that says where it is needs a restart.
  const noticed = result.changes.filter(
    ({ file, action }) => action !== 'unchanged' && action !== 'gone' && !file.endsWith('hosts.toml'),
  )
  const notes = [...result.notes]
  if (flags.reload) notes.push(await reloadRuntime(runtime, resolve(flags.root)))
  else if (noticed.length > 0) notes.push(...[RELOAD_HINTS[runtime] ?? []].flat())
  if (flags.json) return printJson(context.io, { ...result, notes })
  const lines = result.changes.map(({ file, action }) => `${action.padEnd(9)} ${file}`)
  if (lines.length > 0) print(context.io, lines)
  for (const note of notes) context.io.err.write(`${note}\n`)
}

/** `shoal mirror install RUNTIME` */
export async function mirrorInstallCommand(
  context: Context,
  runtime: Runtime,
  flags: MirrorFlags,
): Promise<void> {
  const options = await optionsOf(context, flags)
  await finish(context, flags, await installMirror(runtime, resolve(flags.root), options))
}

/** `shoal mirror uninstall RUNTIME` */
export async function mirrorUninstallCommand(
  context: Context,
  runtime: Runtime,
  flags: MirrorFlags,
): Promise<void> {
  const options = await optionsOf(context, flags)
  await finish(context, flags, await uninstallMirror(runtime, resolve(flags.root), options))
}
