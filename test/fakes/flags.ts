import { parseArgs } from 'node:util'

/** The flags of `shoal serve` as settings, for daemons that tests put together themselves. */
export function settingsOf(args: string[]): Record<string, string | string[]> {
  const { tokens } = parseArgs({ args, strict: false, tokens: true })
  const settings: Record<string, string | string[]> = {}
  for (const [i, token] of tokens.entries()) {
    const value = tokens[i + 1]
    if (token.kind !== 'option') continue
    const text = token.value ?? (value?.kind === 'positional' ? value.value : '')
    const list = ['listen', 'bootstrap', 'upstream'].includes(token.name)
    settings[token.name] = list ? [...(settings[token.name] ?? []), text] : text
  }
  return settings
}
