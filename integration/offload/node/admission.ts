import { ShoalError } from '../../../base/index.ts'
import type { PodNetwork, PodOrder, Reserved } from '../executor.ts'
import { freePort } from './ports.ts'
import type { Row, Rows } from './rows.ts'

/** Which orders fit beside the pods that are here. Its callers read and change the table of ports one at a time. */
export interface Admission {
  /** The ports that the pod gets. @throws UNFIT */
  admit(key: string, order: PodOrder): Promise<Row['ports']>
  /** What the pods of this node have, but for one. */
  reserved(except?: string): Reserved[]
}

export function createAdmission(deps: {
  rows: Rows
  network: PodNetwork
  /** Whether an order fits beside what is here. @throws UNFIT */
  fits?: ((order: PodOrder, others: Reserved[]) => Promise<void>) | undefined
}): Admission {
  const { rows, network, fits } = deps

  async function portsFor(key: string, wanted: number[]): Promise<Row['ports']> {
    if (network.shared) return wanted.map((port) => ({ port, host: port }))
    const taken = new Set<number>()
    for (const [other, row] of rows.all())
      if (other !== key) for (const { host } of row.ports) taken.add(host)
    const ports: Row['ports'] = []
    for (const port of wanted) {
      const host = await freePort(taken)
      taken.add(host)
      ports.push({ port, host })
    }
    return ports
  }

  function reserved(except?: string): Reserved[] {
    const there = [...rows.all()].filter(([key, { wanted }]) => wanted === 'there' && key !== except)
    return there.map(([, { order }]) => {
      const { cpu, memory, storage } = order.spec
      return { manager: order.manager, cpu, memory, storage }
    })
  }

  function refuseTaken(key: string, order: PodOrder): void {
    if (!network.shared) return
    for (const [other, row] of rows.all()) {
      const port = row.ports.find(({ host }) => order.spec.ports.includes(host))
      if (other !== key && port !== undefined) {
        throw new ShoalError('UNFIT', `port ${port.host} of the node is taken by ${other}`)
      }
    }
  }

  return {
    reserved,
    async admit(key, order) {
      refuseTaken(key, order)
      await fits?.(order, reserved(key))
      return portsFor(key, order.spec.ports)
    },
  }
}
