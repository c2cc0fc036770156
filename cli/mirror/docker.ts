import { addToArray, readMembers, removeFromArray } from './json-text.ts'
import type { FileEdit } from './types.ts'

export const CONFIG = '/etc/docker/daemon.json'
const EMPTY = '{}\n'

/** Adds Shoal to docker's mirrors, and to its plain-HTTP registries where it is not on loopback. */
export function daemonEdit(url: string, insecure: string | undefined): FileEdit {
  return {
    path: CONFIG,
    add: (before) => {
      const text = before === undefined || before.trim() === '' ? EMPTY : before
      const mirrored = addToArray(text, 'registry-mirrors', url, CONFIG)
      return insecure === undefined ? mirrored : addToArray(mirrored, 'insecure-registries', insecure, CONFIG)
    },
    remove: (now) => {
      if (now.trim() === '') return now
      // docker itself writes the mirror's URL with a slash at its end in places; people copy it.
      let text = now
      for (const item of [url, `${url}/`]) text = removeFromArray(text, 'registry-mirrors', item, CONFIG)
      if (insecure !== undefined) text = removeFromArray(text, 'insecure-registries', insecure, CONFIG)
      return text !== now && readMembers(text, CONFIG).members.length === 0 ? undefined : text
    },
  }
}

/**
 * True when a docker that had mirrors goes on with them after a reload: 20.10 and later only take lists over that are
 * there, an absent key changes nothing.
 */
export function keepsMirrors(text: string | undefined): boolean {
  if (text === undefined || text.trim() === '') return true
  return !readMembers(text, CONFIG).members.some(({ key }) => key === 'registry-mirrors')
}
