/*
 * The stage
 *
 * What a run stands on: one Postgres (embedded, set up as `npm start` sets it up, or the one in BENCH_DATABASE_URL), one
 * Redis that writes every accept to disk before it answers, and in them a fresh database and queue for each service.
 * Data lies in the checkout, on the disk that a service would use (BENCH_DIR moves it), and is deleted in the end.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, realpath, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Redis } from 'ioredis'
import pg from 'pg'
import { type Embedded, startEmbedded } from '../src/db/embedded.ts'
import { migrate } from '../src/db/migrate.ts'
import { NODE_FLAGS } from '../src/keeper.ts'
import { type Child, startChild } from './child.ts'

export type Backend = 'redis' | 'postgres'

export type Stage = {
  /** Where databases can be created. */
  adminUrl: string
  postgresPid: number | undefined
  redis: { url: string; pid: number } | undefined
  versions: Record<string, string>
  /** Ends whatever is left, and deletes the data. */
  stop(): Promise<void>
}

export type Service = {
  url: string
  databaseUrl: string
  backend: Backend
  /** Process ids by part, to see what each costs. */
  pids: Record<string, number>
  stop(): Promise<void>
}

export async function openStage(say: (line: string) => void): Promise<Stage> {
  const folder = resolve(process.env.BENCH_DIR ?? `.data/bench-${process.pid}`)
  await mkdir(folder, { recursive: true })
  const given = process.env.BENCH_DATABASE_URL
  const embedded = given ? undefined : await startEmbedded({ dataDir: join(folder, 'ledger'), log: say })
  const adminUrl = given ?? embedded?.url ?? ''
  const redis = await startRedis(join(folder, 'redis'), say).catch(async (error: unknown) => {
    await embedded?.stop()
    throw error
  })
  return {
    adminUrl,
    postgresPid: embedded?.pid,
    redis: redis && { url: redis.url, pid: redis.server.pid ?? 0 },
    versions: { postgres: await serverVersion(adminUrl), redis: redis?.version ?? 'none' },
    stop: async () => {
      if (redis && redis.server.exitCode === null) {
        redis.server.kill('SIGTERM')
        await once(redis.server, 'exit')
      }
      await clear(folder, embedded)
    },
  }
}

async function clear(folder: string, embedded: Embedded | undefined): Promise<void> {
  await embedded?.stop()
  // Root's data may lie elsewhere, behind a link.
  const home = await realpath(join(folder, 'ledger', 'postgres')).catch(() => undefined)
  if (home) await rm(home, { recursive: true, force: true })
  await rm(folder, { recursive: true, force: true })
}

type RunningRedis = { url: string; version: string; server: ChildProcess }

async function startRedis(folder: string, say: (line: string) => void): Promise<RunningRedis | undefined> {
  const program = ['redis-server', 'valkey-server'].find((name) => {
    try {
      execFileSync(name, ['--version'])
      return true
    } catch {
      return false
    }
  })
  if (!program) {
    say('no redis-server or valkey-server on this machine: the runs on Redis are left out')
    return undefined
  }
  await mkdir(folder, { recursive: true })
  const port = await freePort()
  const safe = ['--appendonly', 'yes', '--appendfsync', 'always', '--maxmemory-policy', 'noeviction', '--save', '']
  const server = spawn(program, ['--port', String(port), '--bind', '127.0.0.1', '--dir', folder, ...safe], {
    detached: true,
    stdio: 'ignore',
  })
  const url = `redis://127.0.0.1:${port}`
  const client = new Redis(url, { retryStrategy: () => 50, maxRetriesPerRequest: 100 })
  client.on('error', () => undefined)
  try {
    const version = /(?:valkey|redis)_version:(\S+)/.exec(await client.info('server'))?.[1] ?? 'unknown'
    return { url, version, server }
  } finally {
    client.disconnect()
  }
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const address = probe.address()
  probe.close()
  await once(probe, 'close')
  if (address === null || typeof address === 'string') throw new Error('no free port')
  return address.port
}

async function serverVersion(databaseUrl: string): Promise<string> {
  return await onDatabase(databaseUrl, async (client) => {
    const { rows } = await client.query<{ server_version: string }>('SHOW server_version')
    return rows[0]?.server_version ?? 'unknown'
  })
}

export async function onDatabase<T>(databaseUrl: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: databaseUrl })
  await client.connect()
  try {
    return await work(client)
  } finally {
    await client.end()
  }
}

let databases = 0

/** A new, empty database. */
export async function createDatabase(stage: Stage): Promise<string> {
  const name = `transfer_bench_${process.pid}_${++databases}`
  await onDatabase(stage.adminUrl, (client) => client.query(`CREATE DATABASE ${name}`))
  const url = new URL(stage.adminUrl)
  url.pathname = `/${name}`
  return url.href
}

export async function dropDatabase(stage: Stage, databaseUrl: string): Promise<void> {
  const name = new URL(databaseUrl).pathname.slice(1)
  await onDatabase(stage.adminUrl, (client) => client.query(`DROP DATABASE ${name} WITH (FORCE)`))
}

/** One API and one worker, each a process, on a new ledger or a given one, as `npm start` runs them. */
export async function startService(stage: Stage, backend: Backend, given?: string): Promise<Service> {
  const databaseUrl = given ?? (await createDatabase(stage))
  await migrate(databaseUrl, { queue: backend === 'postgres' })
  const env = {
    DATABASE_URL: databaseUrl,
    REDIS_URL: backend === 'redis' ? stage.redis?.url : '',
    QUEUE_NAME: `bench_${process.pid}_${databases}_${Date.now()}`,
    HOST: '127.0.0.1',
    PORT: '0',
    LOG_LEVEL: process.env.LOG_LEVEL ?? 'warn',
  }
  const worker = await startChild('src/worker/main.ts', env, NODE_FLAGS.worker)
  const api: Child = await startChild('src/api/main.ts', env).catch(async (error: unknown) => {
    await worker.stop()
    throw error
  })
  return {
    url: api.url,
    databaseUrl,
    backend,
    pids: {
      api: api.pid,
      worker: worker.pid,
      ...(stage.postgresPid && { postgres: stage.postgresPid }),
      ...(backend === 'redis' && stage.redis && { redis: stage.redis.pid }),
    },
    stop: async () => {
      await api.stop()
      await worker.stop()
      if (backend === 'redis' && stage.redis) await removeQueue(stage.redis.url, env.QUEUE_NAME)
    },
  }
}

/** What one part leaves in Redis is not to be counted as the memory of the next. */
async function removeQueue(redisUrl: string, name: string): Promise<void> {
  const redis = new Redis(redisUrl)
  for await (const keys of redis.scanStream({ match: `bull:${name}:*`, count: 1000 }) as AsyncIterable<string[]>) {
    if (keys.length > 0) await redis.unlink(keys)
  }
  redis.disconnect()
}

/** Waits for a condition, never for a time. @throws Error when it does not come true. */
export async function until(what: string, limit_ms: number, holds: () => Promise<boolean>): Promise<void> {
  for (const began_ms = performance.now(); !(await holds()); await sleep(20)) {
    if (performance.now() - began_ms > limit_ms) throw new Error(`${what}: not within ${limit_ms / 1000} s`)
  }
}
