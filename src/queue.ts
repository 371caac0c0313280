/*
 * The queue
 *
 * What the API and the workers agree on: the shape of a job, its options, and where the queue lives: in Redis, or in
 * the ledger's own Postgres when there is no REDIS_URL. Same classes, one factory each.
 *
 * Accepted must mean safe: an API answers 202 only after the queue has stored the job. A job that runs twice is
 * harmless, because the ledger decides every transfer once.
 *
 * Next: db/transfer.ts, where a batch meets the ledger.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import {
  createPostgresBackend,
  type IQueueBackend,
  type Job,
  type Processor,
  Queue,
  runMigrations,
  type Telemetry,
  Worker,
  type WorkerOptions,
} from 'bullmq'
import { Redis } from 'ioredis'
import type { Client } from 'pg'
import type { Logger } from 'pino'
import { APP_ROLE, asApp } from './db/pool.ts'
import type { Settings } from './settings.ts'
import { drawId, type Transfer } from './transfer.ts'

/**
 * The three jobs there are. `post`: one flush, 1 to 1,000 transfers, packed as [id, source, destination, amount] to
 * keep Redis small. `close`: the accounts whose books want closing. `sweep`: nothing; closes what nobody ordered.
 */
export type JobData = { transfers?: [string, string, string, string][]; accounts?: string[] }
export type JobName = 'post' | 'close' | 'sweep'
export type JobResult = { posted: number; rejected: number }

export type TransferQueue = Queue<JobData, JobResult, JobName, JobData, JobResult, JobName, IQueueBackend>
export type TransferJob = Job<JobData, JobResult, JobName>
export type TransferWorker = Worker<JobData, JobResult, JobName, IQueueBackend>

/**
 * The states of a job that will still be worked on, in the order in which it goes through them: whoever reads them one
 * after the other meets every job, also one that moves on meanwhile.
 */
export const LIVING = ['waiting', 'delayed', 'prioritized', 'active'] as const

export function packTransfers(transfers: readonly Transfer[]): JobData {
  return { transfers: transfers.map(({ id, source, destination, amount }) => [id, source, destination, amount]) }
}

export function unpackTransfers(data: JobData): Transfer[] {
  return (data.transfers ?? []).map(([id, source, destination, amount]) => ({ id, source, destination, amount }))
}

// A job fails for a transfer that the database cannot take at all, and then at once (an outage is waited out inside the
// job). What may be tried again is a completion that the queue's own store did not take.
const JOB_OPTIONS = {
  attempts: 20,
  backoff: { type: 'fixed', delay: 1000 },
  removeOnFail: { age: 7 * 24 * 3600, count: 10_000 },
}

/*
 * Finished jobs are for operators to look at; what was decided is in the ledger. Redis drops the oldest as each job ends.
 * In Postgres that takes 3 ms a job, four times what the rest of the job costs, so there keepTidy drops those that ended
 * a minute ago, now and then.
 */
const REDIS_OPTIONS = { ...JOB_OPTIONS, removeOnComplete: { age: 3600, count: 200 } }
const KEPT_MS = 60_000
const TIDY_INTERVAL_MS = 10_000
const TIDY_LIMIT = 100_000

/** @returns how to stop tidying. */
export function keepTidy(queue: TransferQueue, settings: Settings): () => void {
  if (settings.REDIS_URL) return () => {}
  const timer = setInterval(() => {
    queue.clean(KEPT_MS, TIDY_LIMIT, 'completed').catch(() => {}) // the database is away; next time, then
  }, TIDY_INTERVAL_MS)
  return () => clearInterval(timer)
}

/** Brings up BullMQ's own tables, for a queue that lives in Postgres, and lets the application use them. */
export async function migrateQueue(client: Client): Promise<void> {
  await runMigrations(client, 'bullmq')
  await client.query(`
    GRANT USAGE ON SCHEMA bullmq TO ${APP_ROLE};
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA bullmq TO ${APP_ROLE};
    GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA bullmq TO ${APP_ROLE}`)
}

/**
 * On Postgres, BullMQ keeps the result of its first connection: if that failed, a queue answers with it for ever, and a
 * worker asks for it again without a pause. So whoever did not get through is opened anew.
 */
async function untilReady<Part extends { waitUntilReady(): Promise<unknown>; close(): Promise<void> }>(
  open: () => Part,
): Promise<Part> {
  for (;;) {
    const part = open()
    const ready = await part.waitUntilReady().then(
      () => true,
      () => false,
    )
    if (ready) return part
    part.close().catch(() => {}) // there is nothing to close
    await sleep(1000)
  }
}

/** The producing side: adds jobs, reads them. Fails at once while its store is down, and heals by itself. */
export async function openQueue(settings: Settings, telemetry?: Telemetry): Promise<TransferQueue> {
  const { QUEUE_NAME, DATABASE_URL, REDIS_URL } = settings
  const traced = telemetry && { telemetry }
  if (!REDIS_URL) {
    return await untilReady(() => {
      const connection = postgresConnection(DATABASE_URL, 3)
      const queue = new Queue(
        QUEUE_NAME,
        { connection, defaultJobOptions: JOB_OPTIONS, ...traced },
        createPostgresBackend,
      )
      queue.on('error', () => {})
      return queue as unknown as TransferQueue
    })
  }
  return new Queue(QUEUE_NAME, {
    // Settings, not a client: BullMQ closes only what it opened itself.
    connection: {
      url: REDIS_URL,
      // Together with the two skips below: a command against a Redis that is down fails now, not when it is back.
      enableOfflineQueue: false,
      maxRetriesPerRequest: 1,
      commandTimeout: 700,
      // A peer that is gone without a word is given up, and connected to anew.
      socketTimeout: 2000,
      retryStrategy,
    },
    skipWaitingForReady: true,
    skipVersionCheck: true,
    defaultJobOptions: REDIS_OPTIONS,
    ...traced,
  }) as unknown as TransferQueue
}

/** How often the books of accounts that nobody reads or spends from are looked at. */
const SWEEP_INTERVAL_MS = 5 * 60_000

/**
 * Has the books swept now and then, by whichever worker is free. The queue keeps the schedule, the same one however
 * many ask for it; asked while the queue is away, this tries until it is back.
 */
export async function scheduleSweep(queue: TransferQueue): Promise<void> {
  for (;;) {
    try {
      await queue.upsertJobScheduler(
        'sweep',
        { every: SWEEP_INTERVAL_MS },
        { name: 'sweep', data: {}, opts: UNRECORDED },
      )
      return
    } catch {
      await sleep(10_000, undefined, { ref: false })
    }
  }
}

/** Orders the closing of some accounts' books. */
export async function orderClosing(queue: TransferQueue, accounts: string[]): Promise<void> {
  // An id of our own: for one of BullMQ's, its tables in Postgres want a sequence that only their owner may create.
  await queue.add('close', { accounts }, { ...UNRECORDED, jobId: `close-${drawId()}` })
}

/** For jobs that leave nothing behind that anyone would look up. */
const UNRECORDED = { removeOnComplete: true, removeOnFail: true }

/** The consuming side. */
export async function openWorker(
  settings: Settings,
  process: Processor<JobData, JobResult, JobName>,
  telemetry?: Telemetry,
): Promise<TransferWorker> {
  const { QUEUE_NAME, DATABASE_URL, REDIS_URL, WORKER_JOBS } = settings
  const options: Omit<WorkerOptions, 'connection'> = {
    concurrency: WORKER_JOBS,
    // A killed worker's jobs are taken over when their lock has run out and two checks have gone by: within 10 s.
    lockDuration: 5000,
    stalledInterval: 2000,
    // A worker that dies is no fault of its jobs, however often it happens.
    maxStalledCount: 1_000_000,
    autorun: false,
    // Back at work at once when its store is; the default waits 15 s.
    runRetryDelay: 500,
    ...(telemetry && { telemetry }),
  }
  if (!REDIS_URL) {
    return await untilReady(() => {
      // A completion that is lost costs a job that runs twice, which is harmless: no need to wait for the disk.
      const connection = postgresConnection(DATABASE_URL, 4, '-c synchronous_commit=off')
      const worker = new Worker(QUEUE_NAME, process, { ...options, connection }, createPostgresBackend)
      worker.on('error', () => {})
      return worker as unknown as TransferWorker
    })
  }
  return new Worker(QUEUE_NAME, process, {
    ...options,
    // Longer than a worker waits for a job in one command.
    connection: { url: REDIS_URL, maxRetriesPerRequest: null, socketTimeout: 12_000, retryStrategy },
  }) as unknown as TransferWorker
}

function retryStrategy(attempt: number): number {
  return Math.min(50 * attempt, 1000)
}

function postgresConnection(databaseUrl: string | undefined, max: number, extra = '') {
  if (!databaseUrl) throw new Error('neither REDIS_URL nor DATABASE_URL is set: there is no place for the queue')
  const url = new URL(asApp(databaseUrl, extra))
  // Apart from the URL, because BullMQ adds its search_path to them, and those in the URL would win.
  const options = url.searchParams.get('options') ?? ''
  url.searchParams.delete('options')
  return { connectionString: url.href, options, max, connectionTimeoutMillis: 700 }
}

/** Says at start what an accepted transfer could be lost to, given how Redis is set up. */
export async function warnOfLoss(settings: Settings, log: Logger): Promise<void> {
  if (!settings.REDIS_URL) return
  const wanted = [
    ['appendonly', 'yes', 'a restart of Redis loses every job in it'],
    ['appendfsync', 'always', 'a power cut loses what was accepted in the last second'],
    ['maxmemory-policy', 'noeviction', 'Redis may drop jobs when its memory is full'],
  ] as const
  const redis = new Redis(settings.REDIS_URL, { lazyConnect: true, maxRetriesPerRequest: 1, retryStrategy: () => null })
  redis.on('error', () => {})
  try {
    for (const [name, value, loss] of wanted) {
      const [, found] = (await redis.config('GET', name)) as [string?, string?]
      if (found !== undefined && found !== value) log.warn(`Redis has ${name} ${found}: ${loss}. Set ${name} ${value}`)
    }
  } catch (error) {
    log.warn({ error: String(error) }, 'could not read the settings of Redis: make sure that it keeps what it accepts')
  } finally {
    redis.disconnect()
  }
}
