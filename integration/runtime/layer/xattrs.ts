/** Attributes that belong to the files themselves, and not to the file system or the machine that they lie on. */
export function ownXattrs(xattrs: ReadonlyMap<string, Buffer>): Map<string, Buffer> {
  const own = new Map<string, Buffer>()
  for (const [name, value] of xattrs)
    if (
      name === 'security.capability' ||
      name.startsWith('system.posix_acl_') ||
      (name.startsWith('user.') && !name.startsWith('user.overlay.'))
    )
      own.set(name, value)
  return own
}

/** What overlayfs says of a file in an upper directory: `opaque`, `redirect`, `metacopy`, … */
export function overlayXattr(xattrs: ReadonlyMap<string, Buffer>, name: string): string | undefined {
  const value = xattrs.get(`trusted.overlay.${name}`) ?? xattrs.get(`user.overlay.${name}`)
  return value?.toString('latin1')
}
