/*
 * Part baselines: the same single POSTs in the same shapes on 64 connections (and 256), against two other ways to build
 * this (see baseline-locks.ts and baseline-triggers.ts). Both are synchronous: what they accept is done. The second sums
 * over history, so it is measured on a new ledger, with new accounts for each run, and again on one with 10^6 transfers of
 * 1,000 accounts.
 */
import { startBaseline } from './baseline.ts'
import { describe, planRuns } from './http.ts'
import type { Bench } from './main.ts'
import type { Result, Row } from './report.ts'
import { type RunPlan, runTransfers } from './run.ts'
import { dropDatabase, onDatabase } from './stage.ts'

export async function runBaselines(bench: Bench): Promise<Result> {
  const { stage, load, say, options, full } = bench
  const rows: Row[] = []
  const faults: string[] = []
  const seconds = options.seconds ?? (full ? 10 : 1.2)
  for (const name of ['locked_rows', 'row_triggers', 'row_triggers_grown'] as const) {
    const baseline = await startBaseline(stage, name === 'locked_rows' ? name : 'row_triggers')
    try {
      const accounts = await onDatabase(baseline.databaseUrl, (client) => baseline.open(client, 1000))
      if (name === 'row_triggers_grown') {
        say(`${name}: recording 10^6 transfers`)
        await baseline.grow?.()
      }
      const run = (planned: RunPlan) => runTransfers(baseline, load, planned, accounts)
      say(`${name}: warming up`)
      // Each session of the grown one has to meet 10^6 rows before it is as fast as it gets.
      await run({ shape: 'uniform', connections: 64, seconds: name === 'row_triggers_grown' ? 7 : 2 })
      for (const planned of planRuns(bench)) {
        // Uniform tells what history costs.
        if (name === 'row_triggers_grown' && planned.shape !== 'uniform' && !full) continue
        const { faults: lostRaces, ...row } = await run({ ...planned, seconds })
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
