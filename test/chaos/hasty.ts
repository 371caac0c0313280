/*
 * A worker that is wrong on purpose: it tells the queue that a job is done, and posts afterwards. Nobody notices until it
 * is killed in between. For the control: the checker has to.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { openPool } from '../../src/db/pool.ts'
import { createLog } from '../../src/log.ts'
import { runUntilStopped } from '../../src/process.ts'
import { openWorker, unpackTransfers } from '../../src/queue.ts'
import { readSettings } from '../../src/settings.ts'
import { createPoster } from '../../src/worker/posting.ts'

const HASTE_MS = 200

await runUntilStopped(async () => {
  const settings = readSettings()
  const log = createLog(settings.LOG_LEVEL, 'hasty worker')
  const pool = await openPool({ databaseUrl: settings.DATABASE_URL ?? '', connections: 2, timeout_ms: 8000, log })
  const poster = createPoster({ pool, batchSize: 500, concurrency: 1, orderClosing: () => {}, log })
  const worker = await openWorker(settings, async (job) => {
    void sleep(HASTE_MS).then(() => poster.post(unpackTransfers(job.data)))
    return { posted: 0, rejected: 0 }
  })
  worker.run().catch((error: unknown) => log.fatal({ err: error }, 'worker stopped by itself'))
  return { stop: () => worker.close() }
})
