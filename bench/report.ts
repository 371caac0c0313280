/*
 * Results
 *
 * Rows as measured: into bench/results/ as JSON, and to the terminal as a table.
 */
import { mkdir, writeFile } from 'node:fs/promises'
import { cpus, totalmem } from 'node:os'
import { fileURLToPath } from 'node:url'

export type Row = Record<string, string | number | boolean | null | Record<string, number>>

export type Result = {
  part: string
  /** What was done to get these numbers. */
  workload: string
  rows: Row[]
  /** What must not be and was; the bench fails. */
  faults: string[]
}

export const RESULTS = new URL('results/', import.meta.url)

export function machine(versions: Record<string, string>): Record<string, string | number> {
  const [cpu] = cpus()
  return {
    cpu: cpu?.model ?? 'unknown',
    cores: cpus().length,
    memory_gb: Math.round(totalmem() / 2 ** 30),
    node: process.versions.node,
    ...versions,
  }
}

/** @returns the path of the file. */
export async function saveResult(result: Result, on: Record<string, string | number>): Promise<string> {
  await mkdir(RESULTS, { recursive: true })
  const file = new URL(`${result.part}.json`, RESULTS)
  const { part, workload, rows, faults } = result
  const measured = { part, workload, measured_at: new Date().toISOString(), machine: on, faults, rows }
  await writeFile(file, `${JSON.stringify(measured, null, 2)}\n`)
  return fileURLToPath(file)
}

/** Columns in the order of the first row, numbers to the right. Nested values are left to the JSON. */
export function table(rows: readonly Row[]): string {
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))].filter((column) =>
    rows.every((row) => typeof row[column] !== 'object' || row[column] === null),
  )
  const cells = rows.map((row) => columns.map((column) => show(row[column])))
  const widths = columns.map((column, position) =>
    Math.max(column.length, ...cells.map((line) => line[position]?.length ?? 0)),
  )
  const isText = columns.map((column) => rows.some((row) => typeof row[column] === 'string'))
  const align = (line: readonly string[]) =>
    line
      .map((cell, position) =>
        isText[position] ? cell.padEnd(widths[position] ?? 0) : cell.padStart(widths[position] ?? 0),
      )
      .join('  ')
      .trimEnd()
  return [align(columns), align(widths.map((width) => '-'.repeat(width))), ...cells.map(align)].join('\n')
}

function show(value: Row[string] | undefined): string {
  if (value === null || value === undefined) return '-'
  return typeof value === 'number' ? value.toLocaleString('en') : String(value)
}
