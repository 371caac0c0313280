/*
 * Part growth: does it slow down as history grows?
 *
 * The same single POSTs on 64 connections (and 256), and balance reads, with 10^4, 10^6 (and with --full 10^7)
 * transfers recorded. Uniform between accounts that have sent all of them; and out of the one account that has received
 * all of them, for which each batch must know what it has received. The balances are that account's.
 */
import { growTo } from './grown.ts'
import { describe } from './http.ts'
import type { Bench } from './main.ts'
import { readLoad } from './read.ts'
import type { Result, Row } from './report.ts'
import { runTransfers } from './run.ts'

const RUNS = [
  ['uniform', 64],
  ['hot_source', 64],
  ['uniform', 256],
] as const

export async function runGrowth(bench: Bench): Promise<Result> {
  const { load, say, options, full } = bench
  const seconds = options.seconds ?? (full ? 10 : 1.5)
  const rows: Row[] = []
  const faults: string[] = []
  for (const recorded of [1e4, 1e6, ...(full ? [1e7] : [])]) {
    const { target, accounts } = await growTo(bench, recorded)
    const balance = await readLoad(bench, target.url, [`/accounts/${accounts[0]}/balance`], 2)
    say(`${recorded.toLocaleString('en')} recorded: balances ${balance.per_s.toLocaleString('en')}/s`)
    for (const [shape, connections] of RUNS) {
      const run = await runTransfers(target, load, { shape, connections, seconds }, accounts)
      faults.push(...run.faults)
      rows.push({
        recorded,
        shape,
        connections,
        posted_per_s: run.posted_per_s,
        posted_ms_p50: run.posted_ms_p50,
        posted_ms_p99: run.posted_ms_p99,
        balance_per_s: balance.per_s,
        balance_ms_p50: balance.ms_p50,
        balance_ms_p99: balance.ms_p99,
        cpu: run.cpu,
      })
      say(`${recorded.toLocaleString('en')} recorded: ${describe(run)}`)
    }
  }
  return { part: 'growth', workload: 'single POSTs and balance reads as the ledger grows', rows, faults }
}
