import { type Command, Option } from 'commander'
import type { CreateFlags } from './commands/checkpoint.ts'
import type { ClientFlags, Context } from './commands/context.ts'

/** Those whose containers can be checkpointed. */
const DRIVERS = ['containerd', 'docker', 'runc'] as const

/** A command that talks to a daemon, with the options that all of them have. */
type Client = (usage: string, description: string, sample: string, parent?: Command) => Command

/** The commands about checkpoints. */
export function addCheckpoints(program: Command, client: Client, context: Context): void {
  const parent = program
    .command('checkpoint')
    .description('freeze containers, and keep what they are in the swarm')
    .addHelpText('after', '\nExample:\n  $ shoal checkpoint create redis --leave-running')
  const runtime = (): Option => new Option('--runtime <NAME>', 'whose container it is').choices(DRIVERS)

  client(
    'create',
    'checkpoint a container',
    'shoal checkpoint create redis --leave-running --expires 7d',
    parent,
  )
    .argument('<container>', 'name or ID')
    .addOption(runtime())
    .option('--name <NAME>', "of the checkpoint (default the container's)")
    .option('--leave-running', 'the container goes on; else it is removed when the checkpoint is safe')
    .option('--copies <N>', 'on so many nodes is each block (default 2)')
    .option('--encrypt <NODE...>', 'only these nodes can open it: names or peer IDs')
    .option('--expires <DURATION>', 'it is removed after so long, such as 12h or 7d')
    .option('--every <DURATION>', 'again and again, until the container is gone; it goes on running')
    .option('--keep <N>', 'with --every: so many versions of this node (default 3)')
    .action(async (container: string, flags: CreateFlags) => {
      const { createCommand } = await import('./commands/checkpoint.ts')
      await createCommand(context, container, flags)
    })
  client('ls', "the cluster's checkpoints", 'shoal checkpoint ls', parent).action(
    async (flags: ClientFlags) => {
      const { listCommand } = await import('./commands/checkpoint.ts')
      await listCommand(context, flags)
    },
  )
  client('inspect', 'one checkpoint, and what it needs', 'shoal checkpoint inspect redis:3', parent)
    .argument('<checkpoint>', 'NAME (the newest), NAME:VERSION or NAME@DIGEST')
    .action(async (reference: string, flags: ClientFlags) => {
      const { inspectCommand } = await import('./commands/checkpoint.ts')
      await inspectCommand(context, reference, flags)
    })
  client('rm', 'remove one version, or all', 'shoal checkpoint rm redis:3', parent)
    .argument('<checkpoint>', 'NAME (all of them), NAME:VERSION or NAME@DIGEST')
    .action(async (reference: string, flags: ClientFlags) => {
      const { removeCommand } = await import('./commands/checkpoint.ts')
      await removeCommand(context, reference, flags)
    })
  client('stop', 'end what create --every began', 'shoal checkpoint stop redis', parent)
    .argument('<name>', 'of the checkpoint')
    .action(async (name: string, flags: ClientFlags) => {
      const { stopCommand } = await import('./commands/checkpoint.ts')
      await stopCommand(context, name, flags)
    })
  client('restore', 'restore a checkpoint on this node', 'shoal restore redis --name redis-2')
    .argument('<checkpoint>', 'NAME (the newest), NAME:VERSION or NAME@DIGEST')
    .option('--name <NAME>', 'of the container (default the one it had)')
    .addOption(runtime())
    .action(async (reference: string, flags: ClientFlags & { name?: string; runtime?: string }) => {
      const { restoreCommand } = await import('./commands/checkpoint.ts')
      await restoreCommand(context, reference, flags)
    })
}
