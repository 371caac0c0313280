/*
 * The report: what was done to the parts, what became of the transfers, and whether that is within the bars.
 */
import { type Row, table } from '../../bench/report.ts'
import type { Run } from './run.ts'

/** From the return of the part, or of the last one where several were away, until the load gets through it again. */
export const RECOVERY_BAR_MS = 10_000

/** By kind of part and deed. */
export function rows({ recoveries }: Run): Row[] {
  const groups = Map.groupBy(recoveries, ({ fault }) => `${fault.kind} ${fault.deed}`)
  return [...groups].sort().map(([, group]) => {
    const times_ms = group.map(({ recovery_ms }) => recovery_ms).sort((a, b) => a - b)
    return {
      part: group[0]?.fault.kind ?? '',
      fault: group[0]?.fault.deed ?? '',
      times: group.length,
      recovery_ms_median: times_ms[Math.floor(times_ms.length / 2)] ?? 0,
      recovery_ms_longest: times_ms.at(-1) ?? 0,
    }
  })
}

export function totals(run: Run): Row {
  const { acknowledged, decided, rejected, repeated, lost, doubled, contradicted, deadlocks, duration_s } = run
  return { duration_s, acknowledged, decided, rejected, repeated, lost, doubled, contradicted, deadlocks }
}

/** What is not within the bars; empty is good. */
export function misses(run: Run): string[] {
  const slow = run.recoveries.filter(({ recovery_ms }) => recovery_ms > RECOVERY_BAR_MS)
  return [
    ...run.faults,
    ...slow.map(({ fault, recovery_ms }) => `${fault.part} was back at work ${recovery_ms} ms after ${fault.deed}`),
  ]
}

export function report(run: Run): string {
  const statuses = [...run.statuses].sort().map(([status, count]) => `${count} × ${status || 'no answer'}`)
  const missed = misses(run)
  return [
    '',
    table(rows(run)),
    '',
    table([totals(run)]),
    '',
    `answers: ${statuses.join(', ')}`,
    ...missed.map((line) => `WRONG: ${line}`),
    missed.length === 0
      ? 'nothing lost, nothing doubled, everything back in time'
      : `SEED ${run.seed}: not as promised`,
  ].join('\n')
}
