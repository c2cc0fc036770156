import type { Log, Turns } from '../../../base/index.ts'
import type { PeerId } from '../../../manager/index.ts'
import type { PodDriver, PodNetwork } from '../executor.ts'
import { containerName, LABELS } from './labels.ts'
import type { Rows } from './rows.ts'

/** Looks for containers and networks that no row names, and removes them. */
export function createSweep(deps: {
  self: PeerId
  rows: Rows
  turns: Turns
  driver: PodDriver
  network: PodNetwork
  dropLog: (name: string) => Promise<void>
  signal: AbortSignal
  log: Log
}): () => Promise<void> {
  const { self, rows, turns, driver, network, dropLog, signal, log } = deps

  return async () => {
    const named = new Set([...rows.all()].map(([, { order }]) => containerName(order)))
    const mine = (await driver.list(signal)).filter(({ labels }) => labels[LABELS.node] === self)
    const left = new Set([...mine.map(({ name }) => name), ...(await network.list())])
    for (const name of left) {
      if (named.has(name)) continue
      await turns.run(name, async () => {
        if ([...rows.all()].some(([, { order }]) => containerName(order) === name)) return
        log.warn({ container: name }, 'nobody knows of this container any more: it is removed')
        await driver.remove(name, signal)
        await network.detach(name, signal)
        await dropLog(name)
      })
    }
  }
}
