/** One line of a chart: a y for each x, undefined where there is none. */
export interface Series {
  name: string
  values: (number | undefined)[]
  /** A figure to compare with, not a measured one: drawn dashed. */
  reference?: boolean
}

const WIDTH = 720
const HEIGHT = 400
const LEFT = 70
const RIGHT = 210
const TOP = 40
const BOTTOM = 50
const COLOURS = ['#1b6ca8', '#c8553d', '#4f772d', '#7b2d8e', '#888888']

/** A line chart as SVG text; x values are spread evenly, y starts at 0. */
export function lineChart(chart: {
  title: string
  xLabel: string
  yLabel: string
  xs: number[]
  series: Series[]
}): string {
  const { title, xLabel, yLabel, xs, series } = chart
  const highest = Math.max(...series.flatMap(({ values }) => values.filter((y) => y !== undefined)))
  const step = niceStep(highest / 5)
  const top = Math.ceil(highest / step) * step
  const x = (i: number) => LEFT + (i * (WIDTH - LEFT - RIGHT)) / Math.max(1, xs.length - 1)
  const y = (value: number) => HEIGHT - BOTTOM - (value / top) * (HEIGHT - TOP - BOTTOM)
  const text = (at: [number, number], words: string, more = '') =>
    `<text x="${at[0].toFixed(1)}" y="${at[1].toFixed(1)}" ${more}>${escaped(words)}</text>`

  const parts: string[] = [text([LEFT, 24], title, 'font-size="15" font-weight="bold"')]
  for (let value = 0; value <= top; value += step) {
    const level = y(value).toFixed(1)
    parts.push(
      `<line x1="${LEFT}" y1="${level}" x2="${WIDTH - RIGHT}" y2="${level}" stroke="#ddd"/>`,
      text([LEFT - 8, y(value) + 4], String(value), 'text-anchor="end"'),
    )
  }
  for (const [i, value] of xs.entries()) {
    parts.push(text([x(i), HEIGHT - BOTTOM + 18], String(value), 'text-anchor="middle"'))
  }
  parts.push(
    text([(LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12], xLabel, 'text-anchor="middle"'),
    text([18, HEIGHT / 2], yLabel, `text-anchor="middle" transform="rotate(-90 18 ${HEIGHT / 2})"`),
  )
  for (const [i, { name, values, reference }] of series.entries()) {
    const colour = COLOURS[i % COLOURS.length]!
    const points = values.flatMap((value, at) => (value === undefined ? [] : [[x(at), y(value)] as const]))
    const path = points.map(([px, py]) => `${px.toFixed(1)},${py.toFixed(1)}`).join(' ')
    const dash = reference ? ' stroke-dasharray="6 4"' : ''
    parts.push(`<polyline points="${path}" fill="none" stroke="${colour}" stroke-width="2"${dash}/>`)
    if (!reference) {
      for (const [px, py] of points) {
        parts.push(`<circle cx="${px.toFixed(1)}" cy="${py.toFixed(1)}" r="4" fill="${colour}"/>`)
      }
    }
    const level = TOP + 10 + i * 22
    const from = WIDTH - RIGHT + 16
    parts.push(
      `<line x1="${from}" y1="${level}" x2="${from + 24}" y2="${level}" stroke="${colour}" stroke-width="2"${dash}/>`,
      text([from + 30, level + 4], name),
    )
  }
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="12">`,
    `<title>${escaped(title)}</title>`,
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="white"/>`,
    ...parts,
    '</svg>',
    '',
  ].join('\n')
}

/** 1, 2 or 5 times a power of ten, not below `least`. */
function niceStep(least: number): number {
  const power = 10 ** Math.floor(Math.log10(least))
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= least)!
}

function escaped(words: string): string {
  return words.replaceAll('&', '&amp;').replaceAll('<', '&lt;')
}
