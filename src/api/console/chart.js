/*
 * Charts, in the colours of the page, as wide as their place and redrawn when either changes.
 */
import uPlot from './uPlot.js'

const dark = matchMedia('(prefers-color-scheme: dark)')

const COMPACT = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 2 })

/** @param {string} name of a custom property */
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim()

const utc = (/** @type {number} */ epoch_s) => new Date(epoch_s * 1000).toISOString()

/**
 * @typedef {{ label: string, colour: string, fill?: boolean, stepped?: boolean }} Line `colour` is a custom property
 * @typedef {(number | null)[][]} Columns moments in seconds since 1970, then one column a line
 */

/**
 * @param {HTMLElement} place
 * @param {{ lines: Line[], height: number, value: (value: number) => string, signed?: boolean }} options
 * @returns {{ draw(columns: Columns): void, remove(): void }}
 */
export function createChart(place, { lines, height, value, signed = false }) {
  /** @type {Columns} */
  let columns = [[], ...lines.map(() => [])]
  /** @type {uPlot | undefined} */
  let plot

  /** Under the cursor; without one, the latest. @param {number} column @param {number | null} row */
  const pick = (column, row) => columns[column]?.at(row ?? -1) ?? null

  function make() {
    plot?.destroy()
    const axis = {
      stroke: colour('--quiet'),
      font: '12px system-ui, sans-serif',
      grid: { stroke: colour('--grid'), width: 1 },
      ticks: { show: false },
    }
    /** @type {uPlot.Options} */
    const options = {
      width: Math.max(200, place.clientWidth),
      height,
      padding: [10, 6, 0, 0],
      tzDate: (epoch_s) => uPlot.tzDate(new Date(epoch_s * 1000), 'Etc/UTC'),
      cursor: { y: false, points: { size: 7 }, drag: { x: false, y: false } },
      legend: { live: true },
      scales: {
        y: {
          range: (_plot, low, high) => {
            if (signed && low < 0)
              return uPlot.rangeNum(low, Math.max(0, high), { min: { pad: 0.1 }, max: { pad: 0.1 } })
            return [0, Math.max(1, (high ?? 0) * 1.15)]
          },
        },
      },
      axes: [
        { ...axis, grid: { show: false }, size: 30, space: 70, values: clock },
        {
          ...axis,
          size: 52,
          space: 36,
          values: (_plot, splits) =>
            splits.map((split) => (Math.abs(split) < 100_000 ? value(split) : COMPACT.format(split))),
        },
      ],
      series: [
        {
          label: 'UTC',
          value: (_plot, _at, _series, row) => {
            const at = pick(0, row)
            return at === null ? '–' : utc(at).slice(0, 19).replace('T', ' ')
          },
        },
        ...lines.map((line, n) => ({
          label: line.label,
          stroke: colour(line.colour),
          width: 1.75,
          points: { show: false },
          ...(line.fill ? { fill: `${colour(line.colour)}1f` } : {}),
          ...(line.stepped && uPlot.paths.stepped ? { paths: uPlot.paths.stepped({ align: 1 }) } : {}),
          value: /** @type {uPlot.Series.Value} */ (
            (_plot, _number, _series, row) => {
              const number = pick(n + 1, row)
              return number === null ? '–' : value(number)
            }
          ),
        })),
      ],
    }
    plot = new uPlot(options, /** @type {uPlot.AlignedData} */ (columns), place)
  }

  const resized = new ResizeObserver(() => plot?.setSize({ width: Math.max(200, place.clientWidth), height }))
  make()
  resized.observe(place)
  dark.addEventListener('change', make)

  return {
    draw(fresh) {
      columns = fresh
      plot?.setData(/** @type {uPlot.AlignedData} */ (columns))
    },
    remove() {
      resized.disconnect()
      dark.removeEventListener('change', make)
      plot?.destroy()
    },
  }
}

/** The day where it is another than at the mark before, else the time. @type {uPlot.Axis.DynamicValues} */
function clock(_plot, splits, _axis, _space, step_s) {
  return splits.map((at, n) => {
    const text = utc(at)
    const before = splits[n - 1]
    if (step_s >= 86_400 || (before !== undefined && utc(before).slice(0, 10) !== text.slice(0, 10)))
      return text.slice(5, 10)
    return step_s < 60 ? text.slice(11, 19) : text.slice(11, 16)
  })
}
