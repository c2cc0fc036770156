/** What is set in `a` or in `b`. */
export const union = (a: Uint8Array, b: Uint8Array): Uint8Array => combine(a, b, (x, y) => x | y)

/** What is set in `a` and not in `b`. */
export const without = (a: Uint8Array, b: Uint8Array): Uint8Array => combine(a, b, (x, y) => x & ~y)

/** What is set in both. */
export const common = (a: Uint8Array, b: Uint8Array): Uint8Array => combine(a, b, (x, y) => x & y)

export const isEmpty = (field: Uint8Array): boolean => field.every((byte) => byte === 0)

function combine(a: Uint8Array, b: Uint8Array, of: (x: number, y: number) => number): Uint8Array {
  return Uint8Array.from({ length: Math.max(a.length, b.length) }, (_, at) => of(a[at] ?? 0, b[at] ?? 0))
}
