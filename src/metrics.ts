/*
 * Metrics
 *
 * What operators see at GET /metrics. Each process has a registry of its own, whose label `part` says which; labels are
 * words from closed sets, never ids. On the hot path a counter moves once per flush, per job or per call of the database;
 * what a store has to be asked for is asked when somebody looks, and not for long.
 *
 * What all processes share (the queue's depth, Postgres' own numbers) is told by each API alike: over several, take the
 * max, not the sum.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import client from 'prom-client'
import { type DatabasePool, sql } from 'slonik'
import { z } from 'zod'
import type { TransferQueue } from './queue.ts'
import { REASONS } from './transfer.ts'

/** Seconds: from a request that costs nothing to one that waited as long as it may (`Prefer: wait=30`). */
const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30]
const SIZES = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000]

/** What one look at a store may take; a scrape goes without what did not answer. */
const LOOK_LIMIT_MS = 500

/** How long a worker may take to answer for its part. */
const WORKER_LIMIT_MS = 300

function createRegistry(part: 'api' | 'worker'): client.Registry {
  const register = new client.Registry()
  register.setDefaultLabels({ part })
  // Processor, memory, event-loop lag, collections.
  client.collectDefaultMetrics({ register })
  return register
}

export type ApiMetrics = ReturnType<typeof createApiMetrics>

export function createApiMetrics() {
  const register = createRegistry('api')
  const registers = [register]
  return {
    register,
    submitted: new client.Counter({
      name: 'transfer_submitted_total',
      help: 'Transfers that the queue has stored',
      registers,
    }),
    replayed: new client.Counter({
      name: 'transfer_replayed_total',
      help: 'Transfers asked for again under the key of one that was decided',
      registers,
    }),
    overloaded: new client.Counter({
      name: 'transfer_overloaded_total',
      help: 'Requests refused because too many transfers were waiting',
      registers,
    }),
    jobSize: new client.Histogram({
      name: 'transfer_job_size',
      help: 'Transfers per job put into the queue',
      buckets: SIZES,
      registers,
    }),
    requests: new client.Histogram({
      name: 'http_request_duration_seconds',
      help: 'HTTP requests by route and class of status, from their first byte to their answer; time that a client asked to wait counts',
      labelNames: ['method', 'route', 'status'] as const,
      buckets: SECONDS,
      registers,
    }),
    workersMissing: new client.Counter({
      name: 'transfer_worker_scrape_failures_total',
      help: 'Times that a worker did not answer for its metrics in time and was left out',
      registers,
    }),
  }
}

export type WorkerMetrics = ReturnType<typeof createWorkerMetrics>

/** A job that runs twice, because its worker was taken for dead, is counted twice: the ledger alone counts exactly. */
export function createWorkerMetrics() {
  const register = createRegistry('worker')
  const registers = [register]
  const metrics = {
    register,
    posted: new client.Counter({ name: 'transfer_posted_total', help: 'Transfers posted', registers }),
    rejected: new client.Counter({
      name: 'transfer_rejected_total',
      help: 'Transfers rejected, by reason',
      labelNames: ['reason'] as const,
      registers,
    }),
    busy: new client.Counter({
      name: 'transfer_source_busy_total',
      help: 'Transfers put off to a later call because another worker had their source in hand',
      registers,
    }),
    failed: new client.Counter({
      name: 'transfer_job_failures_total',
      help: 'Jobs that failed, each attempt counted',
      registers,
    }),
    batchSize: new client.Histogram({
      name: 'transfer_batch_size',
      help: 'Transfers per call of the database',
      buckets: SIZES,
      registers,
    }),
    queueWait: new client.Histogram({
      name: 'transfer_queue_wait_seconds',
      help: 'From the submission of a job to the moment a worker takes it, once per job',
      buckets: SECONDS,
      registers,
    }),
    decided: new client.Histogram({
      name: 'transfer_submit_to_posted_seconds',
      help: 'From the submission of a job until all of its transfers are decided, once per job',
      buckets: SECONDS,
      registers,
    }),
  }
  // A rate needs a zero to begin with.
  for (const reason of REASONS) metrics.rejected.inc({ reason }, 0)
  return metrics
}

/** How a process's connections to Postgres are used. @param size the most there may be. */
export function watchPool({ register }: { register: client.Registry }, pool: DatabasePool, size: number): void {
  const connections = new client.Gauge({
    name: 'postgres_pool_connections',
    help: 'Connections of the pool by use; size is the most there may be',
    labelNames: ['state'] as const,
    registers: [register],
    collect() {
      const { acquiredConnections, idleConnections, waitingClients } = pool.state()
      connections.set({ state: 'used' }, acquiredConnections)
      connections.set({ state: 'idle' }, idleConnections)
      connections.set({ state: 'size' }, size)
      waiting.set(waitingClients)
    },
  })
  const waiting = new client.Gauge({
    name: 'postgres_pool_waiting',
    help: 'Queries waiting for a connection of the pool',
    registers: [register],
  })
}

const JOB_STATES = ['waiting', 'active', 'delayed', 'failed'] as const

const serverRow = z.object({ deadlocks: z.number(), lock_waits: z.number(), closed: z.number() })

/** What the stores are asked for when somebody looks. A store that is down leaves its metrics out. */
export function watchStores({ register }: ApiMetrics, { pool, queue }: { pool: DatabasePool; queue: TransferQueue }) {
  const registers = [register]
  const jobs = new client.Gauge({
    name: 'transfer_queue_jobs',
    help: 'Jobs in the queue by state',
    labelNames: ['state'] as const,
    registers,
    async collect() {
      const counts = await look(queue.getJobCounts(...JOB_STATES))
      jobs.reset()
      for (const state of JOB_STATES) if (counts) jobs.set({ state }, counts[state] ?? 0)
    },
  })
  const up = new client.Gauge({
    name: 'postgres_up',
    help: '1 if Postgres answered in time',
    registers,
    async collect() {
      const row = await look(pool.one(readServer))
      up.set(row ? 1 : 0)
      deadlocks.reset()
      closed.reset()
      lockWaits.remove()
      if (!row) return
      deadlocks.inc(row.deadlocks)
      closed.inc(row.closed)
      lockWaits.set(row.lock_waits)
    },
  })
  // Registered before the one above is collected, shown after it.
  const deadlocks = new client.Counter({
    name: 'postgres_deadlocks_total',
    help: 'Deadlocks that Postgres has found in this database',
    registers,
  })
  const lockWaits = new client.Gauge({
    name: 'postgres_lock_waits',
    help: 'Sessions of this database that wait for a lock just now',
    registers,
  })
  const closed = new client.Counter({
    name: 'transfer_books_closed_total',
    help: 'Closings of books recorded, by whomever',
    registers,
  })
}

// pg_locks, because who waits for what in pg_stat_activity is hidden from a role like ours. A wait for a row is one for a
// transaction, which belongs to no database.
const readServer = sql.type(serverRow)`
  SELECT
    (SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()) AS deadlocks,
    (
      SELECT count(DISTINCT pid) FROM pg_locks JOIN pg_stat_activity USING (pid)
      WHERE NOT granted AND datname = current_database()
    ) AS lock_waits,
    (SELECT n_tup_ins FROM pg_stat_all_tables WHERE relid = 'ledger.closing'::regclass) AS closed`

async function look<Result>(question: Promise<Result>): Promise<Result | undefined> {
  const giveUp = new AbortController()
  const late = sleep(LOOK_LIMIT_MS, undefined, { signal: giveUp.signal }).catch(() => undefined)
  const answer = await Promise.race([question.catch(() => undefined), late])
  giveUp.abort()
  return answer
}

/**
 * This process's metrics together with those of the workers it knows.
 *
 * @param workers where the workers serve theirs; one that does not answer in time is left out, and counted.
 * @returns the text format of Prometheus.
 */
export async function scrape(metrics: ApiMetrics, workers: readonly string[]): Promise<string> {
  const others = await Promise.all(
    workers.map((url) =>
      readWorker(url).catch(() => {
        metrics.workersMissing.inc()
        return []
      }),
    ),
  )
  const own = await metrics.register.getMetricsAsJSON()
  return await client.AggregatorRegistry.aggregate([own, ...others]).metrics()
}

async function readWorker(url: string): Promise<client.MetricObjectWithValues<client.MetricValue<string>>[]> {
  const answer = await fetch(url, {
    headers: { Accept: 'application/json' },
    signal: AbortSignal.timeout(WORKER_LIMIT_MS),
  })
  if (!answer.ok) throw new Error(`${url} answers ${answer.status}`)
  return (await answer.json()) as client.MetricObjectWithValues<client.MetricValue<string>>[]
}

export const METRICS_TYPE = client.Registry.PROMETHEUS_CONTENT_TYPE
