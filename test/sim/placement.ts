import { Command } from 'commander'
import { chance, moves, shares, someNodes, threeImages } from './placing.ts'

/** Prints how fair the placement of stored blobs is, and how much more than it must moves when a node joins. */
const command = new Command('placement')
  .description('Three images of 128 MiB that share a base layer, stored on so many nodes, many times over')
  .option('--runs <n>', 'of each row', Number, 40)
  .option('--seed <n>', 'of all chance', Number, 1)
  .parse()
const { runs, seed } = command.opts<{ runs: number; seed: number }>()
const random = chance(seed)
console.log(
  '| nodes | copies | weights | least share | largest share | join, mean | join, 95 % | join, worst |',
)
console.log('|---|---|---|---|---|---|---|---|')
for (const copies of [1, 2]) {
  for (const equal of [true, false]) {
    for (const count of [2, 4, 8, 12, 16]) {
      const loads: number[] = []
      const joins: number[] = []
      for (let run = 0; run < runs; run++) {
        const blobs = threeImages(random, copies)
        const nodes = someNodes(random, count + 1, equal)
        loads.push(...shares(blobs, nodes.slice(1)))
        const { moved, to } = moves(blobs, nodes.slice(1), nodes)
        joins.push(moved / to.get(nodes[0]!.id)!)
      }
      joins.sort((a, b) => a - b)
      const figures = [
        Math.min(...loads),
        Math.max(...loads),
        joins.reduce((a, b) => a + b) / runs,
        joins[Math.ceil(0.95 * runs) - 1]!,
        joins.at(-1)!,
      ]
      console.log(
        `| ${count} | ${copies} | ${equal ? 'equal' : '1 to 4'} | ${figures.map((f) => f.toFixed(2)).join(' | ')} |`,
      )
    }
  }
}
