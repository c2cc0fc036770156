import assert from 'node:assert/strict'

/** Waits until it is so; fails after a minute. */
export async function until(isSo: () => boolean | Promise<boolean>, everyMs = 10): Promise<void> {
  for (const end = performance.now() + 60_000; !(await isSo()); ) {
    assert.ok(performance.now() < end, 'not within 60 s')
    await new Promise((resolve) => setTimeout(resolve, everyMs))
  }
}
