/*
 * What Postgres counts by itself, and the sum of all balances: for the live view.
 */
import pg from 'pg'
import { type DatabasePool, sql } from 'slonik'
import { z } from 'zod'
import { asApp } from './pool.ts'

const countsRow = z.object({ decided: z.number(), posted: z.number(), deadlocks: z.number() })

/**
 * Since Postgres' statistics began: transfers decided, credits written (one for each that was posted), deadlocks. Over
 * all workers, and at no cost to them, since these are rows that Postgres counts anyway. For the same reason
 * they are no ledger: a busy connection reports once a second, one that falls idle up to ten seconds late, and rows that
 * were rolled back count too.
 */
export async function readCounts(pool: DatabasePool): Promise<z.infer<typeof countsRow>> {
  // A statement of its own is a transaction of its own, and sees the statistics of now without clearing a snapshot.
  return await pool.one(sql.prepared('read_counts', countsRow)`
    SELECT
      sum(n_tup_ins) FILTER (WHERE relname = 'transfer')::bigint AS decided,
      sum(n_tup_ins) FILTER (WHERE relname = 'credit')::bigint AS posted,
      (SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()) AS deadlocks
    FROM pg_stat_user_tables
    WHERE schemaname = 'ledger'`)
}

export type BalanceSum = { value: string; accounts: number }

/**
 * All that was ever received less all that was ever spent, the service account's part included, at one moment: 0, or
 * money was made or lost. Believes no closing. Reads every credit, so it has a connection of its own, uses one core of
 * the database at most, and is given up after `timeout_ms`.
 */
export async function readBalanceSum(
  databaseUrl: string,
  timeout_ms: number,
  signal: AbortSignal,
): Promise<BalanceSum> {
  const client = new pg.Client({
    connectionString: asApp(databaseUrl, '-c max_parallel_workers_per_gather=0 -c jit=off'),
    connectionTimeoutMillis: 1000,
    statement_timeout: timeout_ms,
    query_timeout: timeout_ms + 1000,
  })
  client.on('error', () => {}) // the query under way fails with it
  // In the middle of a query this destroys the connection.
  const abandon = () => void client.end().catch(() => {})
  signal.addEventListener('abort', abandon)
  try {
    await client.connect()
    const { rows } = await client.query<{ value: string; accounts: string }>(`
      SELECT
        (SELECT coalesce(sum(amount), 0) FROM ledger.credit) - coalesce(sum(debits.spent), 0) AS value,
        count(*) AS accounts
      FROM ledger.account
      CROSS JOIN LATERAL ledger.spent(account.id) AS debits`)
    const [row] = rows
    if (!row) throw new Error('an aggregate without a row')
    return { value: row.value, accounts: Number(row.accounts) }
  } finally {
    signal.removeEventListener('abort', abandon)
    await client.end().catch(() => {})
  }
}
