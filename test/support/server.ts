/*
 * Servers for the tests
 *
 * A Postgres and a Redis that live as long as the run, each in a temporary folder that goes with it. TEST_DATABASE_URL
 * and TEST_REDIS_URL name servers to use instead; what is made there is removed again.
 */
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { access, constants, mkdtemp, realpath, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Redis } from 'ioredis'
import pg from 'pg'
import { freePort, startEmbedded } from '../../src/db/embedded.ts'
import { migrate } from '../../src/db/migrate.ts'

/** `url` is a superuser's; `template` a migrated database to copy; the names of the copies begin with it. */
export type TestPostgres = { url: string; template: string; stop(): Promise<void> }
export type TestRedis = { url: string; stop(): Promise<void> }

/** Nothing here outlives the run, so nothing has to survive a crash. */
const FLAGS = ['fsync=off', 'synchronous_commit=off', 'full_page_writes=off', 'shared_buffers=128MB'].flatMap(
  (flag) => ['-c', flag],
)

export async function startPostgres(signal: AbortSignal): Promise<TestPostgres> {
  const server = process.env.TEST_DATABASE_URL
    ? { url: process.env.TEST_DATABASE_URL, stop: async () => {} }
    : await startOwnPostgres(signal)
  const template = `transfer_test_${randomBytes(4).toString('hex')}`
  try {
    await administer(server.url, (client) => client.query(`CREATE DATABASE ${template}`))
    await migrate(databaseUrl(server.url, template), { queue: true })
  } catch (error) {
    await server.stop()
    throw error
  }
  return {
    url: server.url,
    template,
    stop: async () => {
      if (process.env.TEST_DATABASE_URL) await dropAll(server.url, template)
      await server.stop()
    },
  }
}

/** @returns undefined where there is no Redis to be had. */
export async function startRedis(): Promise<TestRedis | undefined> {
  if (process.env.TEST_REDIS_URL) return { url: process.env.TEST_REDIS_URL, stop: async () => {} }
  const binary = (await findBinary('redis-server')) ?? (await findBinary('valkey-server'))
  return binary ? await startOwnRedis(binary) : undefined
}

/** The same server and login, another database. */
export function databaseUrl(serverUrl: string, name: string): string {
  const url = new URL(serverUrl)
  url.pathname = `/${name}`
  return url.href
}

export async function administer<T>(url: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  try {
    return await work(client)
  } finally {
    await client.end()
  }
}

async function startOwnPostgres(signal: AbortSignal): Promise<{ url: string; stop(): Promise<void> }> {
  const dataDir = await mkdtemp(join(tmpdir(), 'transfer-test-'))
  const remove = async () => {
    // Root's Postgres may have had to live elsewhere: see src/db/place.ts.
    const home = await realpath(join(dataDir, 'postgres')).catch(() => dataDir)
    await rm(home, { recursive: true, force: true })
    await rm(dataDir, { recursive: true, force: true })
  }
  const said: string[] = []
  try {
    const postgres = await startEmbedded({ dataDir, flags: FLAGS, signal, log: (line) => said.push(line) })
    const stop = async () => {
      postgres.kill()
      await postgres.exited
      await remove()
    }
    return { url: postgres.url, stop }
  } catch (error) {
    await remove()
    throw new Error(['Postgres did not start', ...said].join('\n'), { cause: error })
  }
}

/** Everything of this run: a test that was interrupted has not dropped its database. */
async function dropAll(url: string, template: string): Promise<void> {
  await administer(url, async (client) => {
    const { rows } = await client.query<{ datname: string }>(
      'SELECT datname FROM pg_database WHERE starts_with(datname, $1)',
      [template],
    )
    for (const { datname } of rows) await client.query(`DROP DATABASE IF EXISTS ${datname} WITH (FORCE)`)
  })
}

async function findBinary(name: string): Promise<string | undefined> {
  for (const folder of [...(process.env.PATH ?? '').split(delimiter), '/usr/local/bin', '/usr/bin']) {
    const file = join(folder || '.', name)
    const found = await access(file, constants.X_OK).then(
      () => true,
      () => false,
    )
    if (found) return file
  }
  return undefined
}

/** In memory alone, as nothing here outlives the run. A test about what is kept has a durable one of its own: redis.ts. */
async function startOwnRedis(binary: string): Promise<TestRedis> {
  const port = await freePort()
  const settings = ['--appendonly', 'no', '--save', '', '--maxmemory-policy', 'noeviction']
  const child = spawn(binary, ['--bind', '127.0.0.1', '--port', String(port), ...settings], {
    stdio: 'ignore',
    // A process group of its own: a terminal's Ctrl-C is for the launcher, which stops what uses Redis first.
    detached: true,
  })
  const exited = once(child, 'exit')
  exited.catch(() => {})
  const stop = async () => {
    child.kill('SIGKILL')
    await exited.catch(() => {})
  }
  const url = `redis://127.0.0.1:${port}`
  for (let attempt = 0; attempt < 600; attempt++) {
    const redis = new Redis(url, { lazyConnect: true, maxRetriesPerRequest: 0, retryStrategy: () => null })
    redis.on('error', () => {})
    const answer = await redis.ping().catch(() => undefined)
    redis.disconnect()
    if (answer === 'PONG' && child.exitCode === null) return { url, stop }
    if (child.exitCode !== null) break
    await sleep(50)
  }
  await stop()
  throw new Error(`${binary} did not start on port ${port}`)
}
