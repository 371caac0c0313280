/*
 * Part memory: what API, worker and Redis hold after 10^6 transfers
 *
 * Resident memory of the two processes, and what Redis says it uses, when the queue is empty again: now, and at its
 * highest since the start (of the bench, for Redis). Finished jobs are still in it, as many as the service keeps. API and
 * worker together is less than the sum of both: they run the same program, whose pages are in memory once.
 */
import { growTo } from './grown.ts'
import type { Bench } from './main.ts'
import type { Result } from './report.ts'
import type { Resident } from './watch.ts'

const mb = (bytes: number) => Math.round(bytes / 1e6)

export async function runMemory(bench: Bench): Promise<Result> {
  const { memory = {} } = await growTo(bench, 1e6)
  const { api, worker, ...others } = memory
  const both = api && worker && bothBytes(api, worker)
  const rows = Object.entries({ api, worker, 'api and worker': both, ...others }).flatMap(([part, held]) =>
    held ? [{ part, mb: mb(held.now), highest_mb: mb(held.highest) }] : [],
  )
  bench.say(rows.map(({ part, mb, highest_mb }) => `${part} ${mb} MB (highest ${highest_mb})`).join(', '))
  return { part: 'memory', workload: 'after filling the ledger over HTTP', rows, faults: [] }
}

function bothBytes(one: Resident, other: Resident): Resident {
  const shared = Math.min(one.shared, other.shared)
  return { now: one.now + other.now - shared, highest: one.highest + other.highest - shared, shared }
}
