/** Values of a JSON text that is read; the largest index there is has some thousands. */
const MAX_VALUES = 100_000

const [QUOTE, BACKSLASH, COMMA, BRACKET, BRACE] = Buffer.from('"\\,[{')

/**
 * A JSON text from outside. 4 MiB of it may be two million empty lists, which take more memory than a daemon has: so values are
 * counted before they are made. @throws SyntaxError; RangeError for too many values
 */
export function parseJson(bytes: Buffer, decode = (text: Buffer) => text.toString('utf8')): unknown {
  if (bytes.length > MAX_VALUES && countValues(bytes) > MAX_VALUES) {
    throw new RangeError(`more than ${MAX_VALUES} values`)
  }
  return JSON.parse(decode(bytes))
}

/** At least as many values as there are: each begins after one of these, but for the first. */
function countValues(bytes: Buffer): number {
  let count = 1
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at]
    if (byte === QUOTE) at = endOfText(bytes, at + 1)
    else if (byte === COMMA || byte === BRACKET || byte === BRACE) count++
  }
  return count
}

/** Where the text that begins at `from` has its closing quote. */
function endOfText(bytes: Buffer, from: number): number {
  let at = from
  while (at < bytes.length && bytes[at] !== QUOTE) at += bytes[at] === BACKSLASH ? 2 : 1
  return at
}
