/** A file that a runtime's mirror needs, as a pure edit of its text. */
export interface FileEdit {
  /** Path below the root. */
  path: string
  /** The text with Shoal's part. `before` is undefined when there is no file. Must give its input back when all is there. */
  add(before: string | undefined): string
  /** The text without Shoal's part, for a file that somebody edited since; undefined: nothing worth keeping is left. */
  remove(now: string): string | undefined
}

/** What an install depends on, besides what is there already. */
export interface MirrorOptions {
  /** HOST:PORT of Shoal's registry. */
  registry: string
  /** Registries to put Shoal before; none: what the runtime makes of that (all of them, or docker.io). */
  hosts: string[]
}

/** All edits for one runtime, with what people should know. */
export interface MirrorPlan {
  edits: FileEdit[]
  notes: string[]
}

export interface MirrorChange {
  file: string
  /** `removed`: somebody had edited the file, so that only Shoal's part was taken out. */
  action: 'created' | 'edited' | 'unchanged' | 'restored' | 'removed' | 'gone'
}

export interface MirrorResult {
  runtime: string
  changes: MirrorChange[]
  notes: string[]
}
