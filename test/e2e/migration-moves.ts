import assert from 'node:assert/strict'
import type { Migration } from '../../integration/index.ts'
import { until } from '../lab/index.ts'
import { COUNTER, type MigrationLab, type MigrationNode } from './migration-lab.ts'

export const LONG = { timeoutMs: 120_000, everyMs: 50 }

/** Counters that are moved between the nodes of a lab, and what must hold of each in the end. */
export interface Moves {
  /** What it has counted to on a node; 0 where it does not run. */
  count(node: MigrationNode, name: string): Promise<number>
  /** Starts one, and resolves to its name when it counts. */
  start(on: MigrationNode, options?: { image?: string; args?: string[]; mount?: string }): Promise<string>
  /** Begins to move it; what the command says may be of no interest, as its daemon may die. */
  begin(
    name: string,
    from: MigrationNode,
    to: MigrationNode,
    ...more: string[]
  ): Promise<{ code: number; stderr: string }>
  /** Waits until nobody has anything left to do: then one copy runs, and what both ends have written down fits. Ends it. */
  settled(
    name: string,
    from: MigrationNode,
    to: MigrationNode,
    before: number,
  ): Promise<{ on: MigrationNode; source: Migration }>
}

export function createMoves(lab: MigrationLab): Moves {
  let names = 0
  const count = async (node: MigrationNode, name: string): Promise<number> =>
    Number(await lab.read(node, name, '/count').catch(() => '0'))

  return {
    count,
    async start(on, { args = COUNTER(8), ...more } = {}) {
      const name = `count${++names}`
      await lab.start(on, name, args, more)
      await until('it counts', async () => (await count(on, name)) > 5, LONG)
      return name
    },
    begin: (name, from, to, ...more) =>
      from.shoal.cli(['migrate', name, '--to', to.name, ...more]).catch(() => ({ code: -1, stderr: '' })),
    async settled(name, from, to, before) {
      try {
        const ends = await until(
          'both ends have ended it',
          async () => {
            const all = (await Promise.all([from.migrations(), to.migrations()])).flat()
            const own = all.filter(({ container }) => container.name === name)
            return own.length > 0 && own.every(({ state }) => state !== 'running') ? own : undefined
          },
          LONG,
        )
        const source = ends.findLast(({ role }) => role === 'source')
        assert.ok(source)
        const pids = await Promise.all([lab.pidOn(from, name), lab.pidOn(to, name)])
        assert.equal(pids.filter((pid) => pid !== undefined).length, 1, JSON.stringify(ends))
        const on = pids[0] === undefined ? to : from
        assert.equal(source.state === 'done', on === to, JSON.stringify(ends))
        if (source.state !== 'done') assert.ok(source.reason)
        const counted = await count(on, name)
        assert.ok(counted >= before, `${counted} after ${before}`)
        await until('it counts on', async () => (await count(on, name)) > counted, LONG)
        assert.deepEqual((await lab.observer.seen()).doubles, [])
        await on.containerd.ctr(['tasks', 'kill', '-s', 'KILL', name])
        return { on, source }
      } catch (error) {
        process.stderr.write(`${lab.logs()}\n`)
        throw error
      }
    },
  }
}
