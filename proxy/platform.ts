import { ShoalError } from '../base/index.ts'
import type { Descriptor } from './registry/manifest.ts'
import { isManifestType } from './registry/media.ts'

/** As in an index; `variant` is `v7`, `v8`, …. */
export interface Platform {
  os: string
  architecture: string
  variant?: string
}

const ARCHITECTURES: Record<string, string> = {
  x64: 'amd64',
  ia32: '386',
  ppc64: 'ppc64le',
  loong64: 'loong64',
}
/** Names that people use for the same thing. */
const ALIASES: Record<string, Partial<Platform>> = {
  x86_64: { architecture: 'amd64' },
  i386: { architecture: '386' },
  aarch64: { architecture: 'arm64' },
  armhf: { architecture: 'arm', variant: 'v7' },
}

/** What images this machine runs: its architecture, and Linux, whatever the host is. */
export function hostPlatform(arch: string = process.arch): Platform {
  return {
    os: 'linux',
    architecture: ARCHITECTURES[arch] ?? arch,
    ...(arch === 'arm' ? { variant: 'v7' } : {}),
  }
}

/** `linux/arm/v7`, `linux/amd64`, or only an architecture. @throws USAGE */
export function parsePlatform(text: string): Platform {
  const parts = text.trim().toLowerCase().split('/')
  const [os, architecture, variant] = parts.length === 1 ? ['linux', ...parts] : parts
  if (!os || !architecture || parts.length > 3 || !parts.every((part) => /^[\w.-]+$/.test(part))) {
    throw new ShoalError('USAGE', `not a platform: ${text.slice(0, 60)} (it is like linux/arm64)`)
  }
  return { os, architecture, ...(variant === undefined ? {} : { variant }), ...ALIASES[architecture] }
}

/**
 * Of an index's entries the one for the platform: its own variant, else one that says none, else the best lower one (an ARM
 * v7 machine runs v6), else, where none was asked for, the first. Undefined when there is none.
 */
export function choosePlatform(entries: Descriptor[], wanted: Platform): Descriptor | undefined {
  const fit = entries.filter(
    ({ mediaType, platform }) =>
      isManifestType(mediaType) &&
      platform?.os === wanted.os &&
      platform.architecture === wanted.architecture,
  )
  const asked = level(wanted.variant)
  if (wanted.variant === undefined) {
    return fit.find(({ platform }) => platform?.variant === undefined) ?? fit[0]
  }
  const exact = fit.find(({ platform }) => platform?.variant === wanted.variant)
  const plain = fit.find(({ platform }) => platform?.variant === undefined)
  const lower = fit
    .filter(({ platform }) => level(platform?.variant) < asked)
    .sort((a, b) => level(b.platform?.variant) - level(a.platform?.variant))[0]
  return exact ?? plain ?? lower
}

function level(variant: string | undefined): number {
  return Number(/^v(\d+)$/.exec(variant ?? '')?.[1] ?? 0)
}
