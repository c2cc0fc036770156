/** A member in a process of its own, to be killed: `network-child.ts DATADIR BOOTSTRAP`. */
import { silentLog } from '../../base/index.ts'
import { createNetwork } from '../../manager/network/index.ts'
import { createRpc } from '../../manager/wire/index.ts'

const [dataDir, bootstrap] = process.argv.slice(2)
if (dataDir === undefined || bootstrap === undefined)
  throw new Error('usage: network-child.ts DATADIR BOOTSTRAP')
const log = silentLog()
const network = await createNetwork({ dataDir, listen: ['/ip4/127.0.0.1/tcp/0'], log })
const rpc = await createRpc({ node: network.node, log })
network.join({ rpc, name: 'child', site: 'default', bootstrap: [bootstrap] })
