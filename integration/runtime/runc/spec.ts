import { uniqueCgroup, withNamespace } from '../spec.ts'
import type { OciSpec, PrepareOptions } from '../types.ts'
import { BASE_DIGEST, BASE_NAME } from './bundle.ts'

/**
 * The configuration of a container that is made again: in a cgroup of its own beside the one that it had (or below /shoal, where that was
 * named as systemd does or not at all), and with annotations for the image that it is based on now.
 */
export function specFor({ recreation, name, image, netns, labels }: PrepareOptions): OciSpec {
  const { spec } = recreation
  const old = spec.linux?.cgroupsPath ?? ''
  const cgroupsPath = uniqueCgroup(old.startsWith('/') ? old : '/shoal/', name)
  const placed = { ...spec, linux: { ...spec.linux, cgroupsPath } }
  const made = netns === undefined ? placed : withNamespace(placed, 'network', netns)
  const annotations = { ...spec.annotations, ...recreation.labels, ...labels }
  delete annotations[BASE_NAME]
  delete annotations[BASE_DIGEST]
  if (image !== undefined) {
    annotations[BASE_NAME] = recreation.image?.reference ?? image
    if (recreation.image?.digest) annotations[BASE_DIGEST] = recreation.image.digest
  }
  return { ...made, annotations }
}
