import type { Command } from 'commander'

export type Shell = 'bash' | 'zsh' | 'fish'

interface Word {
  name: string
  help: string
}

/** A command as completion sees it. */
interface Node {
  /** Words that lead here, without the program's own name. */
  path: string[]
  commands: Word[]
  options: (Word & { takesValue: boolean; file: boolean; choices: string[]; short: string | undefined })[]
  /** What the first argument may be. */
  argument: string[]
}

function readTree(command: Command, path: string[] = []): Node[] {
  const commands = command.commands.map((sub) => ({ name: sub.name(), help: sub.description() }))
  const options = command
    .createHelp()
    .visibleOptions(command)
    .flatMap(({ long, short, description, required, flags, argChoices }) => {
      if (!long) return []
      return [
        {
          name: long,
          short,
          help: description,
          takesValue: required,
          file: /<(FILE|DIR|SOCKET|ADDRESS)>/.test(flags),
          choices: argChoices ?? [],
        },
      ]
    })
  const argument = command.registeredArguments[0]?.argChoices ?? []
  const own: Node = { path, commands, options, argument }
  return [own, ...command.commands.flatMap((sub) => readTree(sub, [...path, sub.name()]))]
}

function words(node: Node): string {
  return [...node.commands.map(({ name }) => name), ...node.argument].join(' ')
}

function bash(nodes: Node[]): string {
  const values = new Map<string, string>()
  for (const { name, takesValue, file, choices } of nodes.flatMap(({ options }) => options)) {
    if (!takesValue) continue
    const reply =
      choices.length > 0 ? `$(compgen -W '${choices.join(' ')}' -- "$word")` : '$(compgen -f -- "$word")'
    values.set(name, choices.length > 0 || file ? `COMPREPLY=(${reply})` : 'COMPREPLY=()')
  }
  const cases = nodes.map(
    ({ path, options }, i) =>
      `    '${path.join(' ')}') words='${words(nodes[i] as Node)}'; options='${options.map(({ name }) => name).join(' ')}' ;;`,
  )
  return `# bash completion for shoal; source it, or put it into /etc/bash_completion.d
_shoal() {
  local word=\${COMP_WORDS[COMP_CWORD]} before=\${COMP_WORDS[COMP_CWORD-1]} path='' i words options
  case $before in
${[...values].map(([name, reply]) => `    ${name}) ${reply}; return ;;`).join('\n')}
  esac
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "$path \${COMP_WORDS[i]}" in
${nodes
  .filter(({ path }) => path.length > 0)
  .map(({ path }) => `      ' ${path.join(' ')}') path=' ${path.join(' ')}' ;;`)
  .join('\n')}
    esac
  done
  case "\${path# }" in
${cases.join('\n')}
  esac
  if [[ $word == -* ]]; then COMPREPLY=($(compgen -W "$options --help" -- "$word"))
  else COMPREPLY=($(compgen -W "$words" -- "$word")); fi
}
complete -F _shoal shoal ./shoal
`
}

/** In single quotes, for a description in zsh's and fish's languages. */
function quoted(text: string): string {
  return text.replaceAll("'", "'\\''")
}

function zsh(nodes: Node[]): string {
  // _describe splits at the first colon, so that one in a word must be escaped.
  const entry = ({ name, help }: Word): string => `'${name.replaceAll(':', '\\:')}:${quoted(help)}'`
  const cases = nodes.map((node) => {
    const all = [...node.commands, ...node.argument.map((name) => ({ name, help: name }))]
    return `    '${node.path.join(' ')}')
      commands=(${all.map(entry).join(' ')})
      options=(${node.options.map(entry).join(' ')})
      ;;`
  })
  const values = new Map<string, string>()
  for (const { name, takesValue, file, choices } of nodes.flatMap(({ options }) => options)) {
    if (!takesValue) continue
    const action = choices.length > 0 ? `compadd -- ${choices.join(' ')}` : file ? '_files' : '_message value'
    values.set(name, action)
  }
  return `#compdef shoal
# zsh completion for shoal; put it into a directory of $fpath as _shoal, or source it after compinit
_shoal() {
  local -a commands options
  local at='' i
  case $words[CURRENT-1] in
${[...values].map(([name, action]) => `    ${name}) ${action}; return ;;`).join('\n')}
  esac
  for ((i = 2; i < CURRENT; i++)); do
    case "$at $words[i]" in
${nodes
  .filter(({ path }) => path.length > 0)
  .map(({ path }) => `      ' ${path.join(' ')}') at=' ${path.join(' ')}' ;;`)
  .join('\n')}
    esac
  done
  case "\${at# }" in
${cases.join('\n')}
  esac
  if [[ $PREFIX == -* ]]; then _describe option options
  else _describe command commands; fi
}
if [[ $funcstack[1] == _shoal ]]; then _shoal "$@"; else compdef _shoal shoal; fi
`
}

function fish(nodes: Node[]): string {
  const lines = [
    '# fish completion for shoal; put it into ~/.config/fish/completions/shoal.fish',
    'complete -c shoal -f',
  ]
  for (const { path, commands, options, argument } of nodes) {
    const inside = path.map((word) => `__fish_seen_subcommand_from ${word}`)
    const names = [...commands.map(({ name }) => name), ...argument]
    const free = names.length > 0 ? [`not __fish_seen_subcommand_from ${names.join(' ')}`] : []
    const when = (conditions: string[]): string =>
      conditions.length > 0 ? ` -n '${conditions.join('; and ')}'` : ''
    for (const { name, help } of commands) {
      lines.push(`complete -c shoal${when([...inside, ...free])} -a ${name} -d '${quoted(help)}'`)
    }
    for (const name of argument) lines.push(`complete -c shoal${when([...inside, ...free])} -a ${name}`)
    for (const { name, help, takesValue, file, choices } of options) {
      const value = !takesValue
        ? ''
        : choices.length > 0
          ? ` -x -a '${choices.join(' ')}'`
          : file
            ? ' -r -F'
            : ' -x'
      lines.push(`complete -c shoal${when(inside)} -l ${name.slice(2)}${value} -d '${quoted(help)}'`)
    }
  }
  return `${lines.join('\n')}\n`
}

/** A script for the shell, made of the commands themselves: it cannot fall behind them. */
export function completionScript(program: Command, shell: Shell): string {
  const nodes = readTree(program)
  return { bash, zsh, fish }[shell](nodes)
}
