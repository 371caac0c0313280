/*
 * Accounts in the database
 */
import { type DatabasePool, sql } from 'slonik'
import { z } from 'zod'

const accountRow = z.object({
  id: z.string(),
  overdraft: z.boolean(),
  opening: z.string().nullable(),
  owner: z.string().nullable(),
  created_at: z.string(),
})

export type Account = z.infer<typeof accountRow>

/**
 * Opens an account.
 *
 * @param owner the caller's name; null for nobody's.
 * @returns when it was opened; null if it existed before: that one stays as it is.
 */
export async function openAccount(
  pool: DatabasePool,
  id: string,
  opening: string | null,
  owner: string | null,
): Promise<string | null> {
  return await pool.oneFirst(sql.prepared('open_account', z.object({ created_at: z.string().nullable() }))`
    SELECT ledger.open_account(${id}::uuid, ${opening}::numeric, owner => ${owner}::text) AS created_at`)
}

/** These accounts, in their order; null where none was opened. */
export async function readAccounts(pool: DatabasePool, ids: readonly string[]): Promise<(Account | null)[]> {
  const rows = await pool.any(sql.prepared('read_accounts', accountRow)`
    SELECT known.*
    FROM unnest(${sql.array(ids, 'uuid')}) AS asked (id)
    CROSS JOIN LATERAL (
      SELECT id, overdraft, opening, owner, created_at FROM ledger.account WHERE account.id = asked.id LIMIT 1
    ) AS known`)
  const found = new Map(rows.map((row) => [row.id, row]))
  return ids.map((id) => found.get(id) ?? null)
}

const balanceRow = z.object({ account: z.string(), balance: z.string(), tail: z.number() })

/** The balances of these accounts, in their order; null where none was opened. */
export async function readBalances(
  pool: DatabasePool,
  ids: readonly string[],
): Promise<({ balance: string; tail: number } | null)[]> {
  const rows = await pool.any(sql.prepared('read_balances', balanceRow)`
    SELECT account, balance, tail FROM ledger.balances(${sql.array(ids, 'uuid')})`)
  const found = new Map(rows.map((row) => [row.account, row]))
  return ids.map((id) => found.get(id) ?? null)
}

/** The balance at a past moment (RFC 3339); null where the account was not open by then. */
export async function readBalanceAt(pool: DatabasePool, id: string, at: string): Promise<string | null> {
  return await pool.oneFirst(sql.prepared('read_balance_at', z.object({ balance: z.string().nullable() }))`
    SELECT ledger.balance_at(${id}::uuid, ${at}::timestamptz) AS balance`)
}

const historyRow = z.object({ at: z.string(), balance: z.string().nullable() })

/** The balance at moments evenly spaced from `from` to `to`, both included; null where the account was not open yet. */
export async function readHistory(
  pool: DatabasePool,
  { id, from, to, points }: { id: string; from: string; to: string; points: number },
): Promise<readonly z.infer<typeof historyRow>[]> {
  return await pool.any(sql.prepared('read_history', historyRow)`
    SELECT moment.at, ledger.balance_at(${id}::uuid, moment.at) AS balance
    FROM generate_series(0, ${points}::integer - 1) AS n
    CROSS JOIN LATERAL (
      SELECT ${from}::timestamptz + (${to}::timestamptz - ${from}::timestamptz) * (n / (${points}::float8 - 1)) AS at
    ) AS moment
    ORDER BY n`)
}
