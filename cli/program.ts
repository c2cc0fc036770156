import { Argument, Command, CommanderError, Option } from 'commander'
import { isShoalError, ShoalError } from '../base/index.ts'
import type { ClientFlags, Context } from './commands/context.ts'
import type { MigrateFlags } from './commands/migrate.ts'
import { addCheckpoints } from './program-checkpoints.ts'
import { addMec } from './program-mec.ts'
import { SETTINGS } from './settings.ts'
import { readVersion } from './version.ts'

export const RUNTIMES = ['containerd', 'docker', 'podman'] as const
/** Those whose containers can be moved. */
export const DRIVERS = ['containerd', 'docker', 'runc'] as const
export const SIDES = ['source', 'target'] as const
export const SHELLS = ['bash', 'zsh', 'fish'] as const

/** Commands are loaded when they are run: `shoal status` has no use for what `serve` needs. */
export function createProgram(context: Context): Command {
  const program = new Command('shoal')
    .description('Container images and checkpoints between edge nodes, peer to peer')
    .helpCommand('help [command]', 'show the help of a command')
    .showHelpAfterError('(--help says more)')
    .configureOutput({
      writeOut: (text) => context.io.out.write(text),
      writeErr: (text) => context.io.err.write(text),
    })
    .exitOverride()
  example(program, 'shoal pull docker.io/library/redis:7')

  const add = (usage: string, description: string, sample: string, parent = program): Command => {
    const command = parent.command(usage).description(description)
    command.option('--json', 'print JSON')
    return example(command, sample)
  }
  const client = (usage: string, description: string, sample: string, parent?: Command): Command =>
    add(usage, description, sample, parent)
      .option('--api <ADDR:PORT>', 'where the daemon is (default 127.0.0.1:5081)')
      .option('--api-token <FILE>', "the daemon's token, for one on another machine")
      .option('--config <FILE>', 'configuration file to find the daemon by')

  addServe(add, context)

  client('pull', 'pull an image into this node, and show where its bytes come from', 'shoal pull redis:7')
    .argument('<image>', 'image name, as docker has them')
    .option('--platform <OS/ARCH>', "of the image; default this machine's")
    .action(async (image: string, flags: ClientFlags & { platform?: string }) => {
      const { pullCommand } = await import('./commands/pull.ts')
      await pullCommand(context, image, flags)
    })
  client('status', 'this node: what it does, and what it waits for', 'shoal status').action(
    async (flags: ClientFlags) => {
      const { statusCommand } = await import('./commands/status.ts')
      await statusCommand(context, flags)
    },
  )
  client('peers', 'the other nodes, as this one sees them', 'shoal peers --json | jq -r .[].name').action(
    async (flags: ClientFlags) => {
      const { peersCommand } = await import('./commands/status.ts')
      await peersCommand(context, flags)
    },
  )
  client('images', 'the images that are here', 'shoal images').action(async (flags: ClientFlags) => {
    const { imagesCommand } = await import('./commands/images.ts')
    await imagesCommand(context, flags)
  })
  client('id', "this node's peer ID, as --bootstrap takes it", 'shoal id')
    .option('--data-dir <DIR>', 'read it there, without a daemon')
    .action(async (flags: ClientFlags & { dataDir?: string }) => {
      const { idCommand } = await import('./commands/id.ts')
      await idCommand(context, flags)
    })
  addStored(client, context)
  addUpkeep(client, context)
  addMigrations(client, context)
  addMec(program, context, example)
  addCheckpoints(program, client, context)
  addMirror(program, context)
  add('completion', 'print a completion script for a shell', 'source <(shoal completion bash)')
    .addArgument(new Argument('<shell>').choices(SHELLS))
    .action(async (shell: (typeof SHELLS)[number], flags: { json?: boolean }) => {
      const { completionScript } = await import('./completion.ts')
      const script = completionScript(program, shell)
      context.io.out.write(flags.json ? `${JSON.stringify({ shell, script })}\n` : script)
    })
  add('version', 'print the version', 'shoal version').action((flags: { json?: boolean }) => {
    const version = readVersion()
    context.io.out.write(
      flags.json ? `${JSON.stringify({ version, node: process.version })}\n` : `${version}\n`,
    )
  })
  return program
}

/** The commands that see to the store. */
function addUpkeep(
  client: (usage: string, description: string, sample: string) => Command,
  context: Context,
): void {
  client('gc', 'evict the least recently used until the quota holds', 'shoal gc')
    .option('--all', "everything that is neither kept, pinned, in use nor in containerd's files")
    .action(async (flags: ClientFlags & { all?: boolean }) => {
      const { gcCommand } = await import('./commands/gc.ts')
      await gcCommand(context, flags)
    })
  client('scrub', 'read and verify every block; what is bad is fetched again', 'shoal scrub --rate 20MB')
    .option('--rate <SIZE>', 'bytes a second at most (default 50MB)')
    .action(async (flags: ClientFlags & { rate?: string }) => {
      const { scrubCommand } = await import('./commands/scrub.ts')
      await scrubCommand(context, flags)
    })
  client('pin', 'keep an image that is here, as it is now, from being evicted', 'shoal pin redis:7')
    .argument('<image>', 'as shoal images lists it')
    .action(async (image: string, flags: ClientFlags) => {
      const { pinCommand } = await import('./commands/pins.ts')
      await pinCommand(context, image, flags)
    })
  client('unpin', 'let an image be evicted again', 'shoal unpin redis:7')
    .argument('<image>', 'as shoal images lists it')
    .action(async (image: string, flags: ClientFlags) => {
      const { unpinCommand } = await import('./commands/pins.ts')
      await unpinCommand(context, image, flags)
    })
}

function example(command: Command, line: string): Command {
  return command.addHelpText('after', `\nExample:\n  $ ${line}`)
}

function addServe(
  add: (usage: string, description: string, sample: string) => Command,
  context: Context,
): void {
  const serve = add(
    'serve',
    'run the daemon',
    'shoal serve --site plant-7 --cluster-key /etc/shoal/key --bootstrap http://10.0.0.1:5081',
  ).option('--config <FILE>', 'YAML with the same names; flag > SHOAL_* environment > file > default')
  for (const { name, argument, help, shownDefault, choices, list, map, on } of SETTINGS) {
    const text = `${help}${shownDefault === undefined ? '' : ` (default ${shownDefault})`}`
    const flag = on ? `--no-${name}` : `--${name}`
    const option = new Option(argument === undefined ? flag : `${flag} <${argument}>`, text)
    if (list || map) option.argParser((value: string, before: string[] = []) => [...before, value])
    if (choices) option.choices(choices)
    // Of the two forms of a switch, commander must hear of the positive one first, or the setting counts as given.
    if (on) serve.addOption(new Option(`--${name}`).hideHelp())
    serve.addOption(option)
    if (argument === undefined && !on) serve.addOption(new Option(`--no-${name}`).hideHelp())
  }
  serve.action(async (options: Record<string, unknown>) => {
    const settings: Record<string, string | string[] | boolean> = {}
    for (const { name } of SETTINGS) {
      const value = options[name.replaceAll(/-(\w)/g, (_, letter: string) => letter.toUpperCase())]
      if (value !== undefined) settings[name] = value as string | string[] | boolean
    }
    const [{ serveCommand }, { loadRooms }] = await Promise.all([
      import('./commands/serve.ts'),
      import('./load-rooms.ts'),
    ])
    await serveCommand(
      context,
      {
        settings,
        ...(options.json ? { json: true } : {}),
        ...(typeof options.config === 'string' ? { config: options.config } : {}),
      },
      loadRooms,
    )
  })
}

function addStored(
  client: (usage: string, description: string, sample: string) => Command,
  context: Context,
): void {
  client(
    'store',
    "keep an image in the site, its blocks spread over the nodes' disks",
    'shoal store redis:7 --copies 2',
  )
    .argument('<image>', 'image name, as docker has them')
    .option('--copies <N>', 'on so many nodes is each block', '2')
    .option('--platform <OS/ARCH>', "of the image; default this machine's")
    .option('--all-platforms', 'all that the image is made for')
    .action(async (image: string, flags: ClientFlags & { copies: string }) => {
      const { storeCommand } = await import('./commands/store.ts')
      await storeCommand(context, image, flags)
    })
  client('forget', 'the site need not keep a stored image any longer', 'shoal forget redis:7')
    .argument('<image>', 'image name, as it was stored')
    .action(async (image: string, flags: ClientFlags) => {
      const { forgetCommand } = await import('./commands/store.ts')
      await forgetCommand(context, image, flags)
    })
  client('repair', 'make again what copies of stored images are missing', 'shoal repair --now')
    .option('--now', 'also those of nodes that are away only for a while')
    .action(async (flags: ClientFlags & { now?: boolean }) => {
      const { repairCommand } = await import('./commands/store.ts')
      await repairCommand(context, flags)
    })
}

/** The commands that move containers. */
function addMigrations(
  client: (usage: string, description: string, sample: string) => Command,
  context: Context,
): void {
  client(
    'migrate',
    'move a running container to another node',
    'shoal migrate redis --to edge-2 --health tcp:127.0.0.1:6379',
  )
    .argument('<container>', 'name or ID')
    .requiredOption('--to <NODE>', 'name or peer ID')
    .addOption(new Option('--runtime <NAME>', 'whose container it is').choices(DRIVERS))
    .option('--rounds <N>', 'copy so often at most while it runs (default 5)')
    .option('--health <CHECK>', 'what must answer there: exec:COMMAND, http://… or tcp:HOST:PORT')
    .option('--tcp-established', 'keep TCP connections: the same address comes up there')
    .action(async (container: string, flags: MigrateFlags) => {
      const { migrateCommand } = await import('./commands/migrate.ts')
      await migrateCommand(context, container, flags)
    })
  const migrations = client(
    'migrations',
    'containers that move or have moved, from here or to here',
    'shoal migrations',
  ).action(async (flags: ClientFlags) => {
    const { migrationsCommand } = await import('./commands/migrate.ts')
    await migrationsCommand(context, flags)
  })
  example(
    migrations
      .command('cancel')
      .description('call one off, before its container is frozen')
      .argument('<id>', 'of the migration'),
    'shoal migrations cancel 6f1f…',
  ).action(async (id: string, _flags: object, command: Command) => {
    const { cancelCommand } = await import('./commands/migrate.ts')
    await cancelCommand(context, id, command.optsWithGlobals<ClientFlags>())
  })
  example(
    migrations
      .command('decide')
      .description('say which side is to run, where the nodes cannot find out')
      .argument('<id>', 'of the migration')
      .addArgument(new Argument('<side>', 'where the container is to run').choices(SIDES)),
    'shoal migrations decide 6f1f… source',
  ).action(async (id: string, side: (typeof SIDES)[number], _flags: object, command: Command) => {
    const { decideCommand } = await import('./commands/migrate.ts')
    await decideCommand(context, id, side, command.optsWithGlobals<ClientFlags>())
  })
  client('drain', 'move everything that runs here to other nodes', 'shoal drain').action(
    async (flags: ClientFlags) => {
      const { drainCommand } = await import('./commands/migrate.ts')
      await drainCommand(context, flags)
    },
  )
}

function addMirror(program: Command, context: Context): void {
  const mirror = example(
    program
      .command('mirror')
      .description('point a container runtime of this machine at Shoal, or away from it'),
    'shoal mirror install containerd',
  )
  const common = (command: Command): Command =>
    command
      .addArgument(new Argument('<runtime>').choices(RUNTIMES))
      .option('--root <DIR>', 'the root of the file system to work on', '/')
      .option('--reload', 'make the runtime read its configuration anew')
      .option('--json', 'print JSON')
  const install = common(
    mirror.command('install').description("add Shoal to the runtime's configuration; keeps a backup"),
  )
  example(install, 'shoal mirror install docker --reload')
    .option('--registry <ADDR:PORT>', "Shoal's registry (default 127.0.0.1:5080)")
    .addOption(
      new Option(
        '--host <HOST>',
        'only for this registry; repeatable (podman: docker.io unless given)',
      ).argParser((value: string, before: string[] = []) => [...before, value]),
    )
    .action(async (runtime: (typeof RUNTIMES)[number], flags: { root: string }) => {
      const { mirrorInstallCommand } = await import('./commands/mirror.ts')
      await mirrorInstallCommand(context, runtime, flags)
    })
  const uninstall = common(
    mirror.command('uninstall').description('take it out again and restore what was there, byte for byte'),
  )
  example(uninstall, 'shoal mirror uninstall docker --reload').action(
    async (runtime: (typeof RUNTIMES)[number], flags: { root: string }) => {
      const { mirrorUninstallCommand } = await import('./commands/mirror.ts')
      await mirrorUninstallCommand(context, runtime, flags)
    },
  )
}

/** Runs a command line (without node and script) and resolves with its exit status: 0 ok, 1 failure, 2 usage. */
export async function runCommandLine(argv: string[], context: Context): Promise<number> {
  try {
    await createProgram(context).parseAsync(argv, { from: 'user' })
    return 0
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2
    const known = isShoalError(error) ? error : new ShoalError('INTERNAL', (error as Error).message)
    if (argv.includes('--json')) {
      context.io.err.write(`${JSON.stringify({ error: { code: known.code, message: known.message } })}\n`)
    } else {
      context.io.err.write(`shoal: ${known.message}\n`)
      if (!isShoalError(error) && context.env.SHOAL_LOG_LEVEL === 'debug') {
        context.io.err.write(`${(error as Error).stack}\n`)
      }
    }
    return known.code === 'USAGE' || known.code === 'CONFIG' ? 2 : 1
  }
}
