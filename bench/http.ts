/*
 * Part http: single transfers over HTTP, from the request to the ledger
 *
 * Every transfer is its own POST /transfers, on 64 connections (and 256), in five shapes (see workload.ts), with the
 * queue on Redis (appendfsync always) and in Postgres, the embedded default. Before the first shape, each service is
 * warmed up with uniform load that is not measured. Then all shapes take turns, three times over, because a shared machine
 * is now faster, now slower; of each, the run with the median of posted/s is told, and the faults of all. It is the
 * same 1,000 accounts all the time: after warming up, each has sent and received a dozen and more, as accounts have.
 */
import type { Bench } from './main.ts'
import type { Result, Row } from './report.ts'
import { ACCOUNTS, runTransfers, serviceTarget, type TransferRun } from './run.ts'
import { onDatabase, startService } from './stage.ts'
import { openAccounts, SHAPE_NAMES, type Shape } from './workload.ts'

const WARM_UP_SECONDS = 3
const ROUNDS = 3

export async function runHttp(bench: Bench): Promise<Result> {
  const { stage, load, say, options, full } = bench
  const seconds = options.seconds ?? (full ? 5 : 1)
  const rows: Row[] = []
  const faults: string[] = []
  for (const backend of bench.backends) {
    const service = await startService(stage, backend)
    try {
      const target = serviceTarget(service)
      const accounts = await onDatabase(target.databaseUrl, (client) => openAccounts(client, ACCOUNTS))
      say(`${backend}: warming up`)
      await runTransfers(target, load, { shape: 'uniform', connections: 64, seconds: WARM_UP_SECONDS }, accounts)
      const runs = planRuns(bench).map((planned) => ({ ...planned, measured: [] as TransferRun[] }))
      for (let round = 1; round <= ROUNDS; round++) {
        for (const { shape, connections, measured } of runs) {
          const run = await runTransfers(target, load, { shape, connections, seconds }, accounts)
          measured.push(run)
          faults.push(...run.faults.map((fault) => `${backend} ${shape}: ${fault}`))
          say(`${backend}: ${describe(run)}`)
        }
      }
      for (const { measured } of runs) {
        const { faults: _, ...median } = medianRun(measured)
        rows.push({ backend, ...median })
      }
    } finally {
      await service.stop()
    }
    faults.push(...(await bench.checkBooks(service.databaseUrl)))
  }
  return { part: 'http', workload: 'single POST /transfers, five shapes, 1,000 accounts', rows, faults }
}

function medianRun(runs: readonly TransferRun[]): TransferRun {
  const sorted = runs.toSorted((a, b) => a.posted_per_s - b.posted_per_s)
  return sorted[Math.floor(sorted.length / 2)] as TransferRun
}

/** Without --full, 256 connections for one shape only. */
export function planRuns({ full, options }: Bench): { shape: Shape; connections: number }[] {
  const shapes = options.shape ? [options.shape] : SHAPE_NAMES
  const counts = options.connections ? [options.connections] : [64, 256]
  const all = counts.flatMap((connections) => shapes.map((shape) => ({ shape, connections })))
  if (full || options.shape || options.connections) return all
  return all.filter(({ shape, connections }) => connections === 64 || shape === 'uniform')
}

/** One line for people. */
export function describe(run: TransferRun): string {
  const { shape, connections, accepted_per_s, posted_per_s, posted_ms_p50, posted_ms_p99, drain_ms, cpu, faults } = run
  const waited = posted_ms_p50 === null ? '' : `, posted within ${posted_ms_p50} ms (p50) ${posted_ms_p99} ms (p99)`
  const busy = Object.entries(cpu).map(([name, share]) => `${name} ${Math.round(share * 100)}`)
  return (
    `${shape}, ${connections} connections: accepted ${accepted_per_s.toLocaleString('en')}/s, ` +
    `posted ${posted_per_s.toLocaleString('en')}/s${waited}, drained in ${drain_ms} ms, cpu % ${busy.join(' ')}` +
    (faults.length > 0 ? `, BUT ${faults.join(', ')}` : '')
  )
}
