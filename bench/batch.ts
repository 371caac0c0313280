/*
 * Part batches: transfers over HTTP, 500 per request
 *
 * POST /transfers/batch on 4 connections, uniform and with one hot source, on both backends. The API takes them faster
 * than anything can post them, so the queue fills while the load is on: posted/s counts the drain. After ten seconds of it,
 * the queue would be as full as it may be (QUEUE_LIMIT).
 */
import { describe } from './http.ts'
import type { Bench } from './main.ts'
import type { Result, Row } from './report.ts'
import { runTransfers, serviceTarget } from './run.ts'
import { startService } from './stage.ts'

export async function runBatches(bench: Bench): Promise<Result> {
  const { stage, load, say, options, full } = bench
  const rows: Row[] = []
  const faults: string[] = []
  const plan = { connections: options.connections ?? 4, batch: 500, seconds: options.seconds ?? (full ? 5 : 1.5) }
  for (const backend of bench.backends) {
    const service = await startService(stage, backend)
    try {
      const target = serviceTarget(service)
      say(`${backend}: warming up`)
      await runTransfers(target, load, { ...plan, shape: 'uniform', seconds: 1 })
      for (const shape of ['uniform', 'hot_source'] as const) {
        const { faults: found, ...run } = await runTransfers(target, load, { ...plan, shape })
        rows.push({ backend, batch: plan.batch, ...run })
        faults.push(...found.map((fault) => `${backend} ${shape}: ${fault}`))
        say(`${backend}: batches of ${plan.batch}, ${describe({ ...run, faults: found })}`)
      }
    } finally {
      await service.stop()
    }
    faults.push(...(await bench.checkBooks(service.databaseUrl)))
  }
  return { part: 'batches', workload: 'POST /transfers/batch of 500', rows, faults }
}
