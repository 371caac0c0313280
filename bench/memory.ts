/*
 * Part memory: what API, worker and Redis hold after 10^6 transfers
 *
 * Resident memory of the two processes, and what Redis says it uses, when the queue is empty again: now, and at its
 * highest since the start (of the bench, for Redis). Finished jobs are still in it, as many as the service keeps.
 */
import { growTo } from './grown.ts'
import type { Bench } from './main.ts'
import type { Result } from './report.ts'

const mb = (bytes: number) => Math.round(bytes / 1e6)

export async function runMemory(bench: Bench): Promise<Result> {
  const { memory = {} } = await growTo(bench, 1e6)
  const rows = Object.entries(memory).map(([part, { now, highest }]) => ({
    part,
    mb: mb(now),
    highest_mb: mb(highest),
  }))
  bench.say(rows.map(({ part, mb, highest_mb }) => `${part} ${mb} MB (highest ${highest_mb})`).join(', '))
  return { part: 'memory', workload: 'after filling the ledger over HTTP', rows, faults: [] }
}
