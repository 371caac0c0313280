/*
 * Closings in the database
 *
 * Ordering them, sweeping up what nobody ordered, and `npm run closings`, which drops and rebuilds them all.
 */
import pg from 'pg'
import { type DatabasePool, sql } from 'slonik'
import { z } from 'zod'
import { createLog } from '../log.ts'
import { readSettings } from '../settings.ts'
import { SERVICE_ACCOUNT } from '../transfer.ts'
import { Refusal } from './fault.ts'
import { openPool } from './pool.ts'

/** Credits since the last closing that make an account's tail long; the same number as ledger.long_tail(). */
export const LONG_TAIL = 12

/** Stores what these accounts have received by now, so that nobody has to add it up again. */
export async function closeBooks(pool: DatabasePool, accounts: readonly string[]): Promise<void> {
  // In parts, because each is a claim until the end of its transaction, and Postgres has room for so many.
  for (let from = 0; from < accounts.length; from += 500) {
    await pool.query(sql.prepared('close_books', z.object({ closed: z.number() }))`
      SELECT ledger.close_books(${sql.array(accounts.slice(from, from + 500), 'uuid')}) AS closed`)
  }
}

/** Closes the books of every account with a long tail, page by page. */
export async function sweepBooks(pool: DatabasePool): Promise<void> {
  for (let after: string | null = SERVICE_ACCOUNT; after !== null; ) {
    after = await pool.oneFirst(sql.prepared('sweep_books', z.object({ after: z.string().nullable() }))`
      SELECT after FROM ledger.sweep_books(${after}::uuid) AS after`)
  }
}

/** @throws Error after dump and restore into another cluster, where closings made in the old one would lie. */
export async function refuseOtherCluster(pool: DatabasePool): Promise<void> {
  const atHome = await pool.oneFirst(sql.type(z.object({ at_home: z.boolean() }))`
    SELECT ledger.closings_are_at_home() AS at_home`)
  if (atHome) return
  throw new Refusal(
    'this ledger was restored from another cluster, whose transaction ids mean nothing here, so its closings cannot ' +
      'be trusted: stop all workers and run `npm run closings`, which drops and rebuilds them',
  )
}

async function main(): Promise<void> {
  const { DATABASE_URL, LOG_LEVEL } = readSettings()
  if (!DATABASE_URL) throw new Error('DATABASE_URL is not set: whose closings?')
  const owner = new pg.Client({ connectionString: DATABASE_URL })
  await owner.connect()
  await owner.query('SELECT ledger.drop_closings()').finally(() => owner.end())

  const log = createLog(LOG_LEVEL, 'closings')
  const pool = await openPool({ databaseUrl: DATABASE_URL, connections: 1, timeout_ms: 600_000, log })
  await sweepBooks(pool)
  const count = await pool.oneFirst(sql.type(z.object({ count: z.number() }))`SELECT count(*) FROM ledger.closing`)
  await pool.end()
  console.log(`dropped all closings, made ${count} new ones`)
}

if (import.meta.main) {
  await main().catch((error: unknown) => {
    console.error(error instanceof Error ? error.message : error)
    process.exitCode = 1
  })
}
