/*
 * The worker process
 *
 * Takes jobs, a few at a time, and has every transfer in them decided. Any number of workers run side by side, on any
 * number of machines; one that is killed is missed by nobody: its jobs are taken over, and what it had decided stands.
 */
import type { Logger } from 'pino'
import { closeBooks, refuseOtherCluster, sweepBooks } from '../db/closing.ts'
import { refuseOtherVersion } from '../db/migrate.ts'
import { openPool } from '../db/pool.ts'
import { createLog } from '../log.ts'
import { runUntilStopped } from '../process.ts'
import { type JobData, type JobResult, openWorker, type TransferJob, unpackTransfers } from '../queue.ts'
import { readSettings, type Settings } from '../settings.ts'
import { createCloser } from './closing.ts'
import { createPoster, PoisonError, type Poster } from './posting.ts'

/** Done when every transfer of the job is decided. @throws PoisonError once all others are. */
async function post(poster: Poster, data: JobData): Promise<JobResult> {
  const result: JobResult = { posted: 0, rejected: 0 }
  const answers = await poster.post(unpackTransfers(data))
  for (const answer of answers) {
    if (answer instanceof PoisonError) throw answer
    if (answer === 'posted') result.posted += 1
    else result.rejected += 1
  }
  return result
}

/** Works until stopped. @returns how to stop: jobs in hand are finished first. */
export async function startWorker(settings: Settings, log: Logger): Promise<{ stop: () => Promise<void> }> {
  if (!settings.DATABASE_URL) throw new Error('DATABASE_URL is not set (npm start brings its own database)')

  const pool = await openPool({
    databaseUrl: settings.DATABASE_URL,
    connections: settings.POSTING_CONCURRENCY + 1,
    // A database whose connections died without a word is found out in that time, so within 10 s all is well again.
    timeout_ms: 6000,
    log,
  })
  await refuseOtherVersion(pool)
  await refuseOtherCluster(pool)
  const poster = createPoster({
    pool,
    batchSize: settings.BATCH_SIZE,
    concurrency: settings.POSTING_CONCURRENCY,
    orderClosing: createCloser(pool, log),
    log,
  })
  const worker = await openWorker(settings, async (job: TransferJob): Promise<JobResult> => {
    if (job.name === 'post') return await post(poster, job.data)
    if (job.name === 'close') await closeBooks(pool, job.data.accounts ?? [])
    if (job.name === 'sweep') await sweepBooks(pool)
    return { posted: 0, rejected: 0 }
  })
  worker.on('error', (error) => log.warn({ error: String(error) }, 'queue'))
  worker.on('failed', (job, error) => {
    log.error({ job: job?.id, attempt: job?.attemptsMade, error: String(error) }, 'job failed')
  })
  worker.run().catch((error: unknown) => log.fatal({ err: error }, 'worker stopped by itself'))

  return {
    stop: async () => {
      await worker.close()
      await pool.end()
    },
  }
}

if (import.meta.main) {
  await runUntilStopped(() => {
    const settings = readSettings()
    return startWorker(settings, createLog(settings.LOG_LEVEL, 'worker'))
  })
}
