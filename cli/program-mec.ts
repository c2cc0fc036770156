import type { Command } from 'commander'
import type { ClientFlags, Context } from './commands/context.ts'

/** What an operator does about devices of the MEC API. */
export function addMec(
  program: Command,
  context: Context,
  example: (command: Command, line: string) => Command,
): void {
  const mec = example(
    program
      .command('mec')
      .description('devices that hand applications to the edge, and what the site offers them'),
    'shoal mec token create camera-7',
  )
  const token = example(
    mec.command('token').description('what devices authenticate with at the MEC API'),
    'shoal mec token ls',
  )
  const app = example(
    mec.command('app').description('applications that the site offers to devices'),
    'shoal mec app ls',
  )
  const below = (parent: Command, usage: string, description: string, sample: string): Command =>
    example(parent.command(usage).description(description), sample)
      .option('--json', 'print JSON')
      .option('--api <ADDR:PORT>', 'where the daemon is (default 127.0.0.1:5081)')
      .option('--api-token <FILE>', "the daemon's token, for one on another machine")
      .option('--config <FILE>', 'configuration file to find the daemon by')

  below(
    token,
    'create <ue>',
    "make a token for a device and print it, this once; this node is a new device's home",
    'shoal mec token create camera-7 --expires 30d',
  )
    .option('--expires <TIME>', 'when it ends to be valid, e.g. 12h or 30d (default: never)')
    .action(async (ue: string, flags: ClientFlags & { expires?: string }) => {
      const { mecTokenCreateCommand } = await import('./commands/mec.ts')
      await mecTokenCreateCommand(context, ue, flags)
    })
  below(token, 'ls', 'the tokens that there are, without their secrets', 'shoal mec token ls').action(
    async (flags: ClientFlags) => {
      const { mecTokenListCommand } = await import('./commands/mec.ts')
      await mecTokenListCommand(context, flags)
    },
  )
  below(
    token,
    'revoke <token>',
    "a token's ID, or a device: all of its tokens",
    'shoal mec token revoke camera-7',
  ).action(async (idOrUe: string, flags: ClientFlags) => {
    const { mecTokenRevokeCommand } = await import('./commands/mec.ts')
    await mecTokenRevokeCommand(context, idOrUe, flags)
  })
  below(
    app,
    'add <file>',
    'offer an application that a JSON file describes',
    'shoal mec app add detector.json',
  ).action(async (file: string, flags: ClientFlags) => {
    const { mecAppAddCommand } = await import('./commands/mec.ts')
    await mecAppAddCommand(context, file, flags)
  })
  below(app, 'ls', 'what is offered', 'shoal mec app ls').action(async (flags: ClientFlags) => {
    const { mecAppListCommand } = await import('./commands/mec.ts')
    await mecAppListCommand(context, flags)
  })
  below(app, 'rm <appDId>', 'offer it no longer; what runs goes on', 'shoal mec app rm detector').action(
    async (appDId: string, flags: ClientFlags) => {
      const { mecAppRemoveCommand } = await import('./commands/mec.ts')
      await mecAppRemoveCommand(context, appDId, flags)
    },
  )
}
