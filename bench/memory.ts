/*
 * Part memory: what API, worker and Redis hold after 10^6 transfers
 *
 * Resident memory of the two processes, now and at its highest, and what Redis says it uses, when the queue is empty
 * again. Finished jobs are still in it, as many as the service keeps.
 */
import { Redis } from 'ioredis'
import { growTo } from './grown.ts'
import type { Bench } from './main.ts'
import type { Result, Row } from './report.ts'
import { residentBytes } from './watch.ts'

const mb = (bytes: number) => Math.round(bytes / 1e6)

export async function runMemory(bench: Bench): Promise<Result> {
  const { service, recorded } = await growTo(bench, 1e6)
  const rows: Row[] = []
  for (const part of ['api', 'worker'] as const) {
    const { now, highest } = await residentBytes(service.pids[part] ?? 0)
    rows.push({ part, recorded, mb: mb(now), highest_mb: mb(highest) })
  }
  if (service.backend === 'redis' && bench.stage.redis) {
    const redis = new Redis(bench.stage.redis.url)
    const memory = await redis.info('memory')
    redis.disconnect()
    const field = (name: string) => Number(new RegExp(`^${name}:(\\d+)`, 'm').exec(memory)?.[1])
    rows.push({ part: 'redis', recorded, mb: mb(field('used_memory')), highest_mb: mb(field('used_memory_peak')) })
  }
  bench.say(rows.map(({ part, mb, highest_mb }) => `${part} ${mb} MB (highest ${highest_mb})`).join(', '))
  return { part: 'memory', workload: 'after filling the ledger over HTTP', rows, faults: [] }
}
