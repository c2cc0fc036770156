/** Columns padded to the widest cell; numbers (cells that begin with a digit) to the right. */
export function formatTable(rows: string[][]): string {
  const widths: number[] = []
  for (const row of rows)
    for (const [i, cell] of row.entries()) widths[i] = Math.max(widths[i] ?? 0, cell.length)
  const right = widths.map((_, i) => rows.slice(1).every((row) => /^[\d<]/.test(row[i] ?? '0')))
  const pad = (cell: string, i: number) => (right[i] ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!))
  return rows.map((row) => row.map(pad).join('   ').trimEnd()).join('\n')
}
