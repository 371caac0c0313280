/*
 * The harness
 *
 * What a test file works with: a database of its own, copied from a migrated template; the service in this process, on
 * either backend; seeds; conditions to wait for. Servers come from run.ts, which `npm test` runs.
 */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { ExecutionContext } from 'ava'
import type { JobType } from 'bullmq'
import { Redis } from 'ioredis'
import pg from 'pg'
import { type Logger, pino } from 'pino'
import { startApi } from '../../src/api/main.ts'
import { openQueue, type TransferQueue } from '../../src/queue.ts'
import { readSettings, type Settings } from '../../src/settings.ts'
import { startWorker } from '../../src/worker/main.ts'
import { administer, databaseUrl } from './server.ts'

const { TEST_DATABASE_URL, TEST_TEMPLATE, TEST_REDIS_URL } = process.env

export type Backend = 'postgres' | 'redis'

/** Where the queue can live on this machine. */
export const backends: readonly Backend[] = TEST_REDIS_URL ? ['postgres', 'redis'] : ['postgres']

export type Database = {
  /** A superuser's. */
  url: string
  /** Ends whatever sessions there are. */
  drop(): Promise<void>
}

/** @param options.empty without any table, for tests of the migrations. */
export async function createDatabase(options: { empty?: boolean } = {}): Promise<Database> {
  const { server, template } = servers()
  const name = `${template}_${randomBytes(5).toString('hex')}`
  const create = `CREATE DATABASE ${name} TEMPLATE ${options.empty ? 'template0' : template}`
  await until(() =>
    administer(server, (client) => client.query(create)).catch((error: unknown) => {
      if (!isBusy(error)) throw error
      return undefined
    }),
  )
  const drop = () => administer(server, (client) => client.query(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`))
  return { url: databaseUrl(server, name), drop: async () => void (await drop()) }
}

/** A template that somebody, such as autovacuum, is looking at (object_in_use) cannot be copied just now. */
const isBusy = (error: unknown): boolean => error instanceof pg.DatabaseError && error.code === '55006'

/** A database and connections to it that last as long as the test. */
export async function useDatabase(t: ExecutionContext, options: { empty?: boolean } = {}): Promise<OwnDatabase> {
  const { url, drop } = await createDatabase(options)
  t.teardown(drop)
  const connect = (max = 1) => {
    const pool = openAdmin(url, max)
    t.teardown(() => pool.end())
    return pool
  }
  return { url, connect }
}

/** `connect` gives a superuser's pool, of one connection unless told. */
export type OwnDatabase = { url: string; connect(max?: number): pg.Pool }

/** A pool for looking at the database, and for what the service itself would never do. bigint comes as a number. */
export function openAdmin(url: string, max = 2): pg.Pool {
  const pool = new pg.Pool({ connectionString: url, max, types: { getTypeParser } as pg.CustomTypesConfig })
  // An idle connection that is cut is replaced by the next query.
  pool.on('error', () => {})
  return pool
}

function getTypeParser(oid: number, format?: 'text' | 'binary'): unknown {
  return oid === pg.types.builtins.INT8 ? Number : pg.types.getTypeParser(oid, format as 'text')
}

export type LogLine = { level: number; msg?: string; [field: string]: unknown }

export type Service = {
  /** Of the API, without a slash at the end. */
  url: string
  settings: Settings
  databaseUrl: string
  /** A superuser's, for looking and meddling. */
  pool: pg.Pool
  /** Everything that API and workers have logged, from debug up. */
  log: LogLine[]
  /** One more worker. */
  startWorker(): Promise<{ stop(): Promise<void> }>
  /** Lets them finish what is in hand. */
  stopWorkers(): Promise<void>
  /** Stops everything, and drops the database unless it was given. May be called twice. */
  stop(): Promise<void>
}

/**
 * API and workers in this process, on a queue of their own.
 *
 * @param options.database a database to work on; a fresh one unless told.
 * @param options.workers 1 unless told.
 * @param options.settings over the defaults; DATABASE_URL or REDIS_URL here are for services behind a proxy.
 */
export async function startService(options: {
  backend: Backend
  settings?: Partial<Settings>
  database?: string
  workers?: number
}): Promise<Service> {
  const own = options.database === undefined ? await createDatabase() : undefined
  const url = options.database ?? own?.url ?? ''
  const settings: Settings = {
    ...readSettings({}),
    DATABASE_URL: url,
    ...(options.backend === 'redis' ? { REDIS_URL: redisUrl() } : {}),
    QUEUE_NAME: `test-${randomBytes(6).toString('hex')}`,
    PORT: 0,
    DATABASE_POOL: 3,
    ...options.settings,
  }
  const log: LogLine[] = []
  const workers = new Set<{ stop(): Promise<void> }>()
  const pool = openAdmin(url)

  async function startOne() {
    const worker = await startWorker(settings, captureLog(log, 'worker'))
    const stop = async () => {
      if (workers.delete(handle)) await worker.stop()
    }
    const handle = { stop }
    workers.add(handle)
    return handle
  }

  const stopWorkers = async () => void (await Promise.all([...workers].map((worker) => worker.stop())))

  const api = await startApi(settings, captureLog(log, 'api'))
  for (let count = 0; count < (options.workers ?? 1); count++) await startOne()

  const stopAll = async () => {
    await api.stop()
    await stopWorkers()
    await pool.end()
    if (settings.REDIS_URL) await forgetQueue(settings.QUEUE_NAME)
    await own?.drop()
  }
  let stopped: Promise<void> | undefined
  const stop = () => {
    stopped ??= stopAll()
    return stopped
  }
  return { url: api.url, settings, databaseUrl: url, pool, log, startWorker: startOne, stopWorkers, stop }
}

/**
 * The service's queue, for looking and meddling. It gives up early, as the service needs it to, so on a busy machine
 * it is asked again: added twice under one id, a job is one job.
 */
export async function openPatientQueue(settings: Settings) {
  const queue = await openQueue(settings)
  queue.on('error', () => {})
  const again =
    <Sent extends unknown[], Result>(ask: (...sent: Sent) => Promise<Result>) =>
    (...sent: Sent): Promise<Result> =>
      insist(() => ask(...sent))
  return {
    add: again((...sent: Parameters<TransferQueue['add']>) => queue.add(...sent)),
    getJob: again((id: string) => queue.getJob(id)),
    getJobs: again((states: JobType[]) => queue.getJobs(states)),
    getJobState: again((id: string) => queue.getJobState(id)),
    getJobScheduler: again((id: string) => queue.getJobScheduler(id)),
    isPaused: again(() => queue.isPaused()),
    getJobCounts: again((...states: JobType[]) => queue.getJobCounts(...states)),
    close: () => queue.close(),
  }
}

export type PatientQueue = Awaited<ReturnType<typeof openPatientQueue>>

/** A log that writes into an array. */
export function captureLog(lines: LogLine[], part = 'test'): Logger {
  return pino({ level: 'debug', base: { part } }, { write: (line: string) => void lines.push(JSON.parse(line)) })
}

/** The queue's keys, for a Redis that outlives the run. */
async function forgetQueue(name: string): Promise<void> {
  const redis = new Redis(redisUrl(), { maxRetriesPerRequest: 1 })
  redis.on('error', () => {})
  try {
    for await (const keys of redis.scanStream({ match: `bull:${name}:*`, count: 1000 })) {
      if (keys.length > 0) await redis.unlink(...keys)
    }
  } finally {
    redis.disconnect()
  }
}

/** Of everything random in this process. `SEED=… npm test -- test/model.ts` repeats a run. */
export const seed = process.env.SEED ? Number(process.env.SEED) : Math.floor(Math.random() * 2 ** 31)

/** For fast-check: prints the seed beside the test. */
export function parameters(t: ExecutionContext, numRuns: number): { seed: number; numRuns: number } {
  t.log(`SEED=${seed}`)
  return { seed, numRuns }
}

/** So long that only what will never come takes it, on however busy a machine: no test here is about speed. */
const PATIENCE_MS = 60_000

/**
 * Waits for a condition: the first answer that is neither undefined, null nor false.
 *
 * @throws Error when the time is over.
 */
export async function until<T>(
  condition: () => T | Promise<T>,
  options: { interval_ms?: number } = {},
): Promise<NonNullable<Exclude<T, false>>> {
  const { interval_ms = 10 } = options
  const began = performance.now()
  for (;;) {
    const answer = await condition()
    if (answer !== undefined && answer !== null && answer !== false) return answer as NonNullable<Exclude<T, false>>
    if (performance.now() - began > PATIENCE_MS) {
      throw new Error(`still waiting after ${PATIENCE_MS} ms for: ${condition.toString()}`)
    }
    await sleep(interval_ms)
  }
}

const ATTEMPTS = 20
const PAUSE_MS = 200

/**
 * Does it again where it throws what passes.
 *
 * @param passes anything, unless told.
 * @throws what does not, and Error after so many attempts.
 */
export async function insist<Result>(
  work: () => Promise<Result>,
  passes: (error: unknown) => boolean = () => true,
): Promise<Result> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await work()
    } catch (error) {
      if (!passes(error)) throw error
      if (attempt === ATTEMPTS) throw new Error(`in vain, ${ATTEMPTS} times: ${String(error)}`, { cause: error })
      await sleep(PAUSE_MS)
    }
  }
}

function servers(): { server: string; template: string } {
  if (!TEST_DATABASE_URL || !TEST_TEMPLATE) throw new Error('no servers: run the tests with npm test')
  return { server: TEST_DATABASE_URL, template: TEST_TEMPLATE }
}

export function redisUrl(): string {
  if (!TEST_REDIS_URL) throw new Error('there is no Redis here: look at `backends` before')
  return TEST_REDIS_URL
}
