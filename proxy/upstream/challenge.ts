/** One challenge of a `WWW-Authenticate` header. Scheme and parameter names in lower case. */
export interface Challenge {
  scheme: string
  params: Record<string, string>
}

const TOKEN = /[!#$%&'*+.^_`|~0-9A-Za-z-]+/y
const SPACE = /[ \t]*/y

/**
 * The challenges of a header that may hold several, RFC 9110 section 11.6.1: `scheme key="value", key=value, scheme …`. What
 * does not follow the grammar ends the reading: what was read before is kept.
 */
export function parseChallenges(header: string): Challenge[] {
  const challenges: Challenge[] = []
  let at = 0
  const take = (pattern: RegExp): string => {
    pattern.lastIndex = at
    const text = pattern.exec(header)?.[0] ?? ''
    at += text.length
    return text
  }
  const skipCommas = (): void => {
    do take(SPACE)
    while (header[at] === ',' && ++at)
  }

  for (skipCommas(); at < header.length; skipCommas()) {
    const word = take(TOKEN)
    if (word === '') break
    const afterWord = at
    take(SPACE)
    const current = challenges.at(-1)
    if (header[at] === '=' && current) {
      at++
      take(SPACE)
      const value = header[at] === '"' ? quoted() : take(TOKEN)
      if (value === undefined) break
      current.params[word.toLowerCase()] ??= value
      continue
    }
    // A scheme is followed by a space, a comma or nothing.
    if (afterWord === at && at < header.length && header[at] !== ',') break
    challenges.push({ scheme: word.toLowerCase(), params: {} })
    skipToken68()
  }
  return challenges

  /** From the opening quote; undefined when it is never closed. */
  function quoted(): string | undefined {
    let text = ''
    for (at++; at < header.length; at++) {
      const char = header[at]
      if (char === '"') {
        at++
        return text
      }
      text += char === '\\' ? (header[++at] ?? '') : char
    }
    return undefined
  }

  /** `Negotiate a87421000492aa==`: a blob instead of parameters; we know no scheme that needs it. */
  function skipToken68(): void {
    const before = at
    const blob = take(/[A-Za-z0-9._~+/-]+=*/y)
    take(SPACE)
    if (blob === '' || (at < header.length && header[at] !== ',')) at = before
  }
}
