/*
 * Charts
 *
 * Grouped columns as SVG, written by hand: they must look the same on any machine, in a README, on paper. A chart is
 * drawn from the results of one run only, never mixed with those of another.
 */
import { writeFile } from 'node:fs/promises'
import { RESULTS, type Result, type Row } from './report.ts'

type Chart = {
  title: string
  unit: string
  groups: string[]
  /** One value per group; NaN where there is none. */
  series: { name: string; color: string; values: number[] }[]
}

const BLUE = '#1f6feb'
const LIGHT_BLUE = '#9cc2ff'
const GRAY = '#8c959f'
const LIGHT_GRAY = '#cfd5db'

/** Draws what this run has the figures for, with 64 connections. @returns the names of the files. */
export async function drawCharts(results: readonly Result[]): Promise<string[]> {
  const rows = (part: string) =>
    (results.find((result) => result.part === part)?.rows ?? []).filter(({ connections }) => connections === 64)
  const charts = { throughput: throughput(rows), latency: latency(rows), growth: growth(rows) }
  const drawn: string[] = []
  for (const [name, chart] of Object.entries(charts)) {
    if (!chart) continue
    await writeFile(new URL(`${name}.svg`, RESULTS), draw(chart))
    drawn.push(`${name}.svg`)
  }
  return drawn
}

type Rows = (part: string) => Row[]

const shapesOf = (rows: readonly Row[]): string[] => [...new Set(rows.map(({ shape }) => String(shape)))]
const spoken = (shape: string): string => shape.replaceAll('_', ' ')

function throughput(rows: Rows): Chart | undefined {
  const http = rows('http')
  const baselines = rows('baselines')
  if (http.length === 0 || baselines.length === 0) return undefined
  const shapes = shapesOf(http)
  const series = (name: string, color: string, from: readonly Row[]) => ({
    name,
    color,
    values: shapes.map((shape) => Number(from.find((row) => row.shape === shape)?.posted_per_s ?? Number.NaN)),
  })
  return {
    title: 'Posted transfers per second, each its own POST, 64 connections',
    unit: '/s',
    groups: shapes.map(spoken),
    series: [
      series(
        'Transfer on Redis',
        BLUE,
        http.filter(({ backend }) => backend === 'redis'),
      ),
      series(
        'Transfer, embedded',
        LIGHT_BLUE,
        http.filter(({ backend }) => backend === 'postgres'),
      ),
      series(
        'rows locked FOR UPDATE',
        GRAY,
        baselines.filter(({ baseline }) => baseline === 'locked_rows'),
      ),
      series(
        'triggers that sum',
        LIGHT_GRAY,
        baselines.filter(({ baseline }) => baseline === 'row_triggers'),
      ),
    ].filter(({ values }) => values.some(Number.isFinite)),
  }
}

function latency(rows: Rows): Chart | undefined {
  const http = rows('http')
  if (http.length === 0) return undefined
  const shapes = shapesOf(http)
  const series = (name: string, color: string, backend: string, column: string) => ({
    name,
    color,
    values: shapes.map((shape) =>
      Number(http.find((row) => row.backend === backend && row.shape === shape)?.[column] ?? Number.NaN),
    ),
  })
  return {
    title: 'From sending to posted under full load, ms, seen by waiting clients',
    unit: ' ms',
    groups: shapes.map(spoken),
    series: [
      series('Redis, half within', BLUE, 'redis', 'posted_ms_p50'),
      series('Redis, 99 % within', LIGHT_BLUE, 'redis', 'posted_ms_p99'),
      series('embedded, half within', GRAY, 'postgres', 'posted_ms_p50'),
      series('embedded, 99 % within', LIGHT_GRAY, 'postgres', 'posted_ms_p99'),
    ].filter(({ values }) => values.some(Number.isFinite)),
  }
}

function growth(rows: Rows): Chart | undefined {
  const measured = rows('growth')
  if (measured.length === 0) return undefined
  const sizes = [...new Set(measured.map(({ recorded }) => Number(recorded)))]
  const series = (name: string, color: string, shape: string) => ({
    name,
    color,
    values: sizes.map((size) =>
      Number(measured.find((row) => row.recorded === size && row.shape === shape)?.posted_per_s ?? Number.NaN),
    ),
  })
  return {
    title: 'Posted transfers per second as the ledger grows, 64 connections',
    unit: '/s',
    groups: sizes.map((size) => `${size.toLocaleString('en')} recorded`),
    series: [
      series('between accounts that sent them all', BLUE, 'uniform'),
      series('out of the account that received them all', LIGHT_BLUE, 'hot_source'),
      // Of the smallest size on a new ledger: it records about as many while it is measured.
      {
        name: 'triggers that sum',
        color: LIGHT_GRAY,
        values: sizes.map((size) => {
          const baseline = size === 1e6 ? 'row_triggers_grown' : size === 1e4 ? 'row_triggers' : undefined
          const row = rows('baselines').find((row) => row.baseline === baseline && row.shape === 'uniform')
          return Number(row?.posted_per_s ?? Number.NaN)
        }),
      },
    ].filter(({ values }) => values.some(Number.isFinite)),
  }
}

const WIDTH = 860
const HEIGHT = 380
const PLOT = { left: 62, right: 16, top: 78, bottom: 36 }

function draw({ title, unit, groups, series }: Chart): string {
  const highest = Math.max(...series.flatMap(({ values }) => values.filter(Number.isFinite)))
  const step = roundStep(highest / 5)
  const top = step * Math.ceil((highest * 1.05) / step)
  const plotHeight = HEIGHT - PLOT.top - PLOT.bottom
  const y = (value: number) => PLOT.top + plotHeight * (1 - value / top)
  const groupWidth = (WIDTH - PLOT.left - PLOT.right) / groups.length
  const barWidth = Math.min(64, (groupWidth * 0.84) / series.length)
  const parts: string[] = []

  for (let value = 0; value <= top + step / 2; value += step) {
    parts.push(
      `<line x1="${PLOT.left}" x2="${WIDTH - PLOT.right}" y1="${fix(y(value))}" y2="${fix(y(value))}" class="grid"/>`,
    )
    parts.push(`<text x="${PLOT.left - 8}" y="${fix(y(value) + 4)}" text-anchor="end">${show(value)}</text>`)
  }
  for (const [position, group] of groups.entries()) {
    const middle = PLOT.left + groupWidth * (position + 0.5)
    parts.push(`<text x="${fix(middle)}" y="${HEIGHT - PLOT.bottom + 20}" text-anchor="middle">${group}</text>`)
    for (const [order, { color, values }] of series.entries()) {
      const value = values[position] ?? Number.NaN
      if (!Number.isFinite(value)) continue
      const x = middle + barWidth * (order - series.length / 2)
      const height = Math.max(1, plotHeight * (value / top))
      const box = `x="${fix(x)}" y="${fix(y(value))}" width="${fix(barWidth - 2)}" height="${fix(height)}"`
      parts.push(`<rect ${box} fill="${color}"><title>${show(value)}${unit}</title></rect>`)
      parts.push(`<text x="${fix(x + barWidth / 2 - 1)}" y="${fix(y(value) - 4)}" class="value">${show(value)}</text>`)
    }
  }
  let x = PLOT.left
  for (const { name, color } of series) {
    parts.push(
      `<rect x="${x}" y="42" width="12" height="12" fill="${color}"/><text x="${x + 18}" y="53">${name}</text>`,
    )
    x += 40 + name.length * 6.6
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${title}">
<style>
  text { font: 12px system-ui, Helvetica, Arial, sans-serif; fill: #24292f }
  .title { font-size: 16px; font-weight: 600 }
  .value { font-size: 10px; text-anchor: middle }
  .grid { stroke: #d8dee4 }
</style>
<rect width="${WIDTH}" height="${HEIGHT}" fill="#fff"/>
<text x="${PLOT.left}" y="26" class="title">${title}</text>
${parts.join('\n')}
</svg>
`
}

/** 1, 2 or 5 times a power of ten, at least the given value. */
function roundStep(least: number): number {
  const power = 10 ** Math.floor(Math.log10(least))
  return ([1, 2, 5, 10].find((factor) => factor * power >= least) ?? 10) * power
}

const fix = (value: number): string => value.toFixed(1)

/** Short enough to stand above a column. */
function show(value: number): string {
  if (value >= 10_000) return `${(value / 1000).toFixed(1).replace(/\.0$/, '')}k`
  return value >= 100 || Number.isInteger(value) ? Math.round(value).toLocaleString('en') : value.toFixed(1)
}
