/*
 * The worker process
 *
 * Takes jobs, a few at a time, and has every transfer in them decided. Any number of workers run side by side, on any
 * number of machines; one that is killed is missed by nobody: its jobs are taken over, and what it had decided stands.
 */
import type { Logger } from 'pino'
import { closeBooks, refuseOtherCluster, sweepBooks } from '../db/closing.ts'
import { refuseOtherVersion } from '../db/migrate.ts'
import { openPool, untilReached } from '../db/pool.ts'
import { createLog } from '../log.ts'
import { createWorkerMetrics, type WorkerMetrics, watchPool } from '../metrics.ts'
import { runUntilStopped } from '../process.ts'
import { type JobResult, openWorker, type TransferJob, unpackTransfers } from '../queue.ts'
import { readSettings, type Settings } from '../settings.ts'
import { startTracing } from '../trace.ts'
import { createCloser } from './closing.ts'
import { listen } from './listener.ts'
import { createPoster, PoisonError, type Poster } from './posting.ts'

/** Done when every transfer of the job is decided. @throws PoisonError once all others are. */
async function post(poster: Poster, job: TransferJob, metrics: WorkerMetrics, log: Logger): Promise<JobResult> {
  const result: JobResult = { posted: 0, rejected: 0 }
  const transfers = unpackTransfers(job.data)
  metrics.queueWait.observe(secondsSince(job.timestamp))
  const answers = await poster.post(transfers)
  metrics.decided.observe(secondsSince(job.timestamp))
  if (log.isLevelEnabled('debug')) {
    for (const [position, { id }] of transfers.entries()) {
      log.debug({ job: job.id, transfer: id, outcome: String(answers[position]) }, 'decided')
    }
  }
  for (const answer of answers) {
    if (answer instanceof PoisonError) throw answer
    if (answer === 'posted') result.posted += 1
    else result.rejected += 1
  }
  return result
}

/** By two clocks, that of the API and this one: never below zero. */
const secondsSince = (epoch_ms: number): number => Math.max(Date.now() - epoch_ms, 0) / 1000

/** Works until stopped. @returns how to stop: jobs in hand are finished first; and where it serves its metrics. */
export async function startWorker(
  settings: Settings,
  log: Logger,
): Promise<{ stop: () => Promise<void>; url?: string | undefined }> {
  if (!settings.DATABASE_URL) throw new Error('DATABASE_URL is not set (npm start brings its own database)')

  const tracing = await startTracing(settings, 'worker')
  const pool = await openPool({
    databaseUrl: settings.DATABASE_URL,
    connections: settings.POSTING_CONCURRENCY + 1,
    // A database whose connections died without a word is found out in that time, so within 10 s all is well again.
    timeout_ms: 6000,
    log,
    tracing: tracing !== undefined,
  })
  await untilReached(log, () => refuseOtherVersion(pool))
  await untilReached(log, () => refuseOtherCluster(pool))
  const metrics = createWorkerMetrics()
  watchPool(metrics, pool, settings.POSTING_CONCURRENCY + 1)
  const poster = createPoster({
    pool,
    batchSize: settings.BATCH_SIZE,
    concurrency: settings.POSTING_CONCURRENCY,
    orderClosing: createCloser(pool, log),
    metrics,
    tracing,
    log,
  })
  const work = async (job: TransferJob): Promise<JobResult> => {
    if (job.name === 'post') return await post(poster, job, metrics, log)
    if (job.name === 'close') await closeBooks(pool, job.data.accounts ?? [])
    if (job.name === 'sweep') await sweepBooks(pool)
    return { posted: 0, rejected: 0 }
  }
  const worker = await openWorker(settings, work, tracing?.telemetry)
  worker.on('error', (error) => log.warn({ error: String(error) }, 'queue'))
  worker.on('failed', (job, error) => {
    metrics.failed.inc()
    log.error({ job: job?.id, attempt: job?.attemptsMade, error: String(error) }, 'job failed')
  })
  worker.run().catch((error: unknown) => log.fatal({ err: error }, 'worker stopped by itself'))

  const { WORKER_HOST: host, WORKER_PORT: port } = settings
  const listener = port === undefined ? undefined : await listen(metrics, { host, port, log })
  return {
    url: listener?.url,
    stop: async () => {
      await worker.close()
      listener?.stop()
      await pool.end()
      await tracing?.stop()
    },
  }
}

if (import.meta.main) {
  await runUntilStopped(() => {
    const settings = readSettings()
    return startWorker(settings, createLog(settings.LOG_LEVEL, 'worker'))
  })
}
