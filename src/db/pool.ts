/*
 * The connection pool
 *
 * slonik, with every default that matters written out. Each connection works as the role transfer_app, which can read
 * the ledger and call its functions and nothing else, whatever the login behind DATABASE_URL could do.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { createPgDriverFactory } from '@slonik/pg-driver'
import type { Logger } from 'pino'
import { createPool, type DatabasePool } from 'slonik'
import { isPassing } from './fault.ts'

export const APP_ROLE = 'transfer_app'

/** The same database, on connections that work as transfer_app and speak UTC. */
export function asApp(databaseUrl: string, options = ''): string {
  const url = new URL(databaseUrl)
  const given = url.searchParams.get('options') ?? ''
  url.searchParams.set('options', `${given} -c role=${APP_ROLE} -c TimeZone=UTC ${options}`.trim())
  return url.href
}

/**
 * Opens a pool, waiting for a database that is not there yet: a service that is started before its database heals by
 * itself. Afterwards the pool survives restarts of the database on its own.
 *
 * @throws Error if there is a database but it was never migrated.
 * @param timeout_ms the most one statement or one connection attempt may take.
 * @param tracing whether each query is a span (trace.ts).
 */
export async function openPool(options: {
  databaseUrl: string
  connections: number
  timeout_ms: number
  log: Logger
  tracing?: boolean
}): Promise<DatabasePool> {
  const { databaseUrl, connections, timeout_ms, log, tracing = false } = options
  const open = () =>
    createPool(asApp(databaseUrl), {
      driverFactory: impatient(timeout_ms + GRACE_MS),
      maxPoolSize: connections,
      connectionTimeout: timeout_ms,
      statementTimeout: timeout_ms,
      gracefulTerminationTimeout: 500,
      idleTimeout: 60_000,
      tracing,
      // The callers decide what is worth a second try; slonik's own retries would hide a deadlock from us.
      connectionRetryLimit: 0,
      queryRetryLimit: 0,
      transactionRetryLimit: 0,
      // The default, DISCARD ALL after every checkout, costs half again a query and drops prepared statements.
      resetConnection: async () => {},
      // slonik's own would make floats of numeric and lose cents.
      typeParsers: [
        { name: 'int8', parse: Number },
        { name: 'numeric', parse: String },
        { name: 'timestamptz', parse: rfc3339 },
      ],
    })
  return await untilReached(log, open).catch((error: unknown) => {
    // The login works, the role it is to work as does not: nobody has migrated yet.
    throw new Error(`the database is not migrated: npm run migrate (${String(error)})`, { cause: error })
  })
}

/**
 * Does what a process begins with, again and again until there is a database to do it with.
 *
 * @throws what is wrong with more than the way to it.
 */
export async function untilReached<Result>(log: Logger, work: () => Promise<Result>): Promise<Result> {
  for (;;) {
    try {
      return await work()
    } catch (error) {
      if (!isPassing(error)) throw error
      log.warn({ error: String(error) }, 'database not reachable yet; trying again in 1 s')
      await sleep(1000)
    }
  }
}

/** Postgres' own spelling in UTC, "2026-01-31 23:59:59.123456+00", as RFC 3339 without losing its microseconds. */
function rfc3339(text: string): string {
  return text.replace(' ', 'T').replace(/\+00$/, 'Z')
}

/** What a statement may take longer here than there: Postgres itself ends it first, if it is alive. */
const GRACE_MS = 300

/**
 * The driver, with an end to its patience. A peer that is gone without a word, as after a failover, never answers and
 * never closes the connection: statement_timeout is kept by Postgres, and the kernel tries for a quarter of an hour. Whoever
 * is overdue here is destroyed, and the pool opens another.
 */
function impatient(limit_ms: number): ReturnType<typeof createPgDriverFactory> {
  const factory = createPgDriverFactory()
  return async (configuration) => {
    const driver = await factory(configuration)
    const clients = new Set<Awaited<ReturnType<typeof driver.createClient>>>()
    const createClient: typeof driver.createClient = async () => {
      const client = await driver.createClient()
      clients.add(client)
      client.on('destroy', () => clients.delete(client))
      // slonik stops listening when it gives a client up; an error that comes later must not end the process.
      client.on('error', () => {})
      const query: typeof client.query = async (...statement) => {
        let timer: NodeJS.Timeout | undefined
        const overdue = new Promise<never>((_, reject) => {
          timer = setTimeout(() => {
            reject(new Error(`no answer from the database in ${limit_ms} ms`))
            for (const other of clients) {
              if (other !== client && other.state() !== 'IDLE') continue
              other.destroy().catch(() => {}) // it is of no use any more, whatever it says to that
            }
          }, limit_ms)
        })
        try {
          return await Promise.race([client.query(...statement), overdue])
        } finally {
          clearTimeout(timer)
        }
      }
      return { ...client, query }
    }
    return { ...driver, createClient }
  }
}
