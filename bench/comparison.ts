/*
 * Part baselines: the same single POSTs in the same shapes on 64 connections, against two other ways to build this
 * (see baseline-locks.ts and baseline-triggers.ts). Both are synchronous: what they accept is done. The second sums over
 * history, so it is measured on a new ledger, and again on one with 10^6 transfers of 1,000 accounts.
 */
import { startBaseline } from './baseline.ts'
import { describe } from './http.ts'
import type { Bench } from './main.ts'
import type { Result, Row } from './report.ts'
import { runTransfers } from './run.ts'
import { dropDatabase, onDatabase } from './stage.ts'
import { SHAPE_NAMES, type Shape } from './workload.ts'

export async function runBaselines(bench: Bench): Promise<Result> {
  const { stage, load, say, options, full } = bench
  const rows: Row[] = []
  const faults: string[] = []
  const shapes = options.shape ? [options.shape] : SHAPE_NAMES
  const plan = { connections: options.connections ?? 64, seconds: options.seconds ?? (full ? 10 : 1.5) }
  for (const name of ['locked_rows', 'row_triggers', 'row_triggers_grown'] as const) {
    const baseline = await startBaseline(stage, name === 'locked_rows' ? name : 'row_triggers')
    try {
      const accounts = await onDatabase(baseline.databaseUrl, (client) => baseline.open(client, 1000))
      if (name === 'row_triggers_grown') {
        say(`${name}: recording 10^6 transfers`)
        await baseline.grow?.()
      }
      const run = (shape: Shape, seconds: number) => runTransfers(baseline, load, { ...plan, shape, seconds }, accounts)
      say(`${name}: warming up`)
      await run('uniform', 2)
      for (const shape of name === 'row_triggers_grown' && !full ? shapes.slice(0, 3) : shapes) {
        const { faults: lostRaces, ...row } = await run(shape, plan.seconds)
        rows.push({ baseline: name, ...row })
        say(`${name}: ${describe({ ...row, faults: lostRaces })}`)
      }
      faults.push(...(await baseline.checkBooks()))
    } finally {
      await baseline.stop()
    }
    await dropDatabase(stage, baseline.databaseUrl)
  }
  return { part: 'baselines', workload: 'single POSTs against two synchronous designs', rows, faults }
}
