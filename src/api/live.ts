/*
 * The live view
 *
 * What the whole system is doing, as server-sent events, one a second. One sampler for all who watch, and none while
 * nobody does. It goes on while a store is down, and says which.
 *
 * Next: console.ts, the page that shows it.
 */
import type { Writable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Router } from '@koa/router'
import type { DatabasePool } from 'slonik'
import { type BalanceSum, readBalanceSum, readCounts } from '../db/live.ts'
import type { ApiMetrics } from '../metrics.ts'
import type { TransferQueue } from '../queue.ts'
import { demand } from './access.ts'
import { finish } from './answer.ts'
import { Problem, reach } from './problem.ts'

/** Counts are since Postgres' statistics began, `submitted` since this API did. Null is what is not known just now. */
export type Sample = {
  at: string
  submitted: number
  posted: number | null
  rejected: number | null
  deadlocks: number | null
  /** Means of the last three seconds. */
  submitted_per_s: number | null
  posted_per_s: number | null
  rejected_per_s: number | null
  /** From the submission of a job to its end, over the jobs that ended in the last minute. */
  latency_ms_p50: number | null
  latency_ms_p99: number | null
  latency_jobs: number
  /** Jobs. Not those with a time to come, of which there is always one: the next sweep. */
  queue: { waiting: number; active: number; failed: number } | null
  /** The last one that was finished. `problem` says why the one after it failed. */
  balance_sum: (BalanceSum & { at: string; duration_ms: number }) | null
  balance_sum_problem: string | null
  down: ('database' | 'queue')[]
}

export type Live = {
  /**
   * Writes the events from here on, beginning with what the others have seen in the last two minutes.
   *
   * @throws Problem overloaded.
   */
  join(viewer: Writable): void
  /** Ends all streams: the process is about to stop. */
  release(): void
}

const VIEWER_LIMIT = 64
const INTERVAL_MS = 1000
const BACKLOG = 120
const RATE_WINDOW_MS = 3500
const LATENCY_WINDOW_MS = 60_000
/** Jobs read per sample: each brings all its transfers along, so under load a few of them must stand for the rest. */
const LATENCY_JOBS = 20
/** A viewer that has not taken this many bytes has stopped reading. */
const UNREAD_LIMIT = 256 * 1024

const SUM_TIMEOUT_MS = 20_000
const SUM_INTERVAL_MS = 10_000
/** Next after so many times its own duration: the sum takes a twentieth of one connection's time at most. */
const SUM_REST = 20

export function createLive(options: {
  pool: DatabasePool
  databaseUrl: string
  queue: TransferQueue
  metrics: ApiMetrics
}): Live {
  const { pool, databaseUrl, queue, metrics } = options
  const viewers = new Set<Writable>()
  let backlog: string[] = []
  let released = false
  let running = false
  let watching = new AbortController()

  function join(viewer: Writable): void {
    if (released || viewers.size >= VIEWER_LIMIT) {
      throw new Problem('overloaded', `${VIEWER_LIMIT} are watching already, or the service is about to stop`)
    }
    viewer.on('error', () => {}) // whoever is gone is gone
    viewer.once('close', () => viewers.delete(viewer))
    viewer.write(`retry: 2000\n\n${backlog.join('')}`)
    viewers.add(viewer)
    if (!running) void run()
  }

  async function run(): Promise<void> {
    running = true
    const sampler = createSampler({ pool, queue, metrics })
    watching = new AbortController()
    const sum = createSum(databaseUrl, watching.signal)
    while (viewers.size > 0) {
      const began = performance.now()
      const sample: Sample = { ...(await sampler()), ...sum() }
      const event = `data: ${JSON.stringify(sample)}\n\n`
      backlog = [...backlog.slice(1 - BACKLOG), event]
      for (const viewer of viewers) {
        if (viewer.writableLength > UNREAD_LIMIT) viewer.destroy()
        else viewer.write(event)
      }
      const rest_ms = Math.max(0, INTERVAL_MS - (performance.now() - began))
      await sleep(rest_ms, undefined, { signal: watching.signal }).catch(() => {})
    }
    watching.abort()
    backlog = []
    running = false
  }

  function release(): void {
    released = true
    watching.abort()
    for (const viewer of viewers) viewer.end()
    viewers.clear()
  }

  return { join, release }
}

export function liveRoutes(router: Router, { live }: { live: Live }): void {
  router.get('/live', (ctx) => {
    demand(ctx, 'read')
    ctx.type = 'text/event-stream'
    ctx.set('Cache-Control', 'no-store')
    ctx.set('X-Accel-Buffering', 'no') // a proxy that gathers events would show them in clumps
    ctx.status = 200
    finish(ctx)
    if (ctx.method === 'HEAD') return
    live.join(ctx.res)
    // Koa would take every viewer that leaves for an error.
    ctx.respond = false
  })
}

type Reading = { at_ms: number; submitted: number; posted: number | null; rejected: number | null }

/** @returns takes the sample of the moment. It never fails. */
function createSampler(options: { pool: DatabasePool; queue: TransferQueue; metrics: ApiMetrics }) {
  const { pool, queue, metrics } = options
  let readings: Reading[] = []
  let latencies = new Map<string, { ended_ms: number; latency_ms: number }>()

  return async (): Promise<Omit<Sample, keyof ReturnType<ReturnType<typeof createSum>>>> => {
    const [counted, depth, ended] = await Promise.allSettled([
      reach('database', readCounts(pool)),
      reach('queue', queue.getJobCounts('waiting', 'active', 'failed')),
      reach('queue', queue.getJobs(['completed'], 0, LATENCY_JOBS - 1)),
    ])
    const submitted = (await metrics.submitted.get()).values[0]?.value ?? 0
    const now_ms = Date.now()

    const counts = counted.status === 'fulfilled' ? counted.value : null
    const posted = counts?.posted ?? null
    const rejected = counts && Math.max(0, counts.decided - counts.posted)
    readings.push({ at_ms: now_ms, submitted, posted, rejected })
    readings = readings.filter(({ at_ms }) => now_ms - at_ms <= RATE_WINDOW_MS)

    // `timestamp` is the API's clock and `finishedOn` the worker's: on several machines, as good as their clocks agree.
    for (const job of ended.status === 'fulfilled' ? ended.value : []) {
      if (job?.name !== 'post' || !job.id || !job.finishedOn) continue
      latencies.set(job.id, { ended_ms: job.finishedOn, latency_ms: Math.max(0, job.finishedOn - job.timestamp) })
    }
    latencies = new Map([...latencies].filter(([, { ended_ms }]) => now_ms - ended_ms <= LATENCY_WINDOW_MS))
    const sorted = [...latencies.values()].map(({ latency_ms }) => latency_ms).sort((a, b) => a - b)

    const { waiting = 0, active = 0, failed = 0 } = depth.status === 'fulfilled' ? depth.value : {}
    return {
      at: new Date(now_ms).toISOString(),
      submitted,
      posted,
      rejected,
      deadlocks: counts?.deadlocks ?? null,
      submitted_per_s: rate(readings, 'submitted'),
      posted_per_s: rate(readings, 'posted'),
      rejected_per_s: rate(readings, 'rejected'),
      latency_ms_p50: quantile(sorted, 0.5),
      latency_ms_p99: quantile(sorted, 0.99),
      latency_jobs: sorted.length,
      queue: depth.status === 'fulfilled' ? { waiting, active, failed } : null,
      down: [
        ...(counted.status === 'rejected' ? (['database'] as const) : []),
        ...(depth.status === 'rejected' ? (['queue'] as const) : []),
      ],
    }
  }
}

/** Null while there is nothing to compare with, and when Postgres has begun to count anew. */
function rate(readings: Reading[], count: 'submitted' | 'posted' | 'rejected'): number | null {
  const known = readings.filter((reading) => reading[count] !== null)
  const [first, last] = [known[0], known.at(-1)]
  if (!first || !last || first === last) return null
  const grown = Number(last[count]) - Number(first[count])
  return grown < 0 ? null : (grown * 1000) / (last.at_ms - first.at_ms)
}

/** By nearest rank. */
function quantile(sorted: number[], q: number): number | null {
  return sorted[Math.max(0, Math.ceil(q * sorted.length) - 1)] ?? null
}

/** @returns the last sum known; has it taken anew, in the background, when it is time. */
function createSum(databaseUrl: string, signal: AbortSignal) {
  let balance_sum: Sample['balance_sum'] = null
  let balance_sum_problem: string | null = null
  let due_ms = 0
  let busy = false

  async function take(): Promise<void> {
    busy = true
    const began_ms = performance.now()
    const at = new Date().toISOString()
    try {
      const sum = await readBalanceSum(databaseUrl, SUM_TIMEOUT_MS, signal)
      balance_sum = { ...sum, at, duration_ms: Math.round(performance.now() - began_ms) }
      balance_sum_problem = null
    } catch (error) {
      const late = error instanceof Error && 'code' in error && error.code === STATEMENT_TIMEOUT
      balance_sum_problem = late ? `not added up within ${SUM_TIMEOUT_MS / 1000} s` : 'the database did not answer'
    }
    const took_ms = performance.now() - began_ms
    due_ms = performance.now() + Math.max(SUM_INTERVAL_MS, SUM_REST * took_ms)
    busy = false
  }

  return () => {
    if (!busy && performance.now() >= due_ms) void take()
    return { balance_sum, balance_sum_problem }
  }
}

const STATEMENT_TIMEOUT = '57014'
