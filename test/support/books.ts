/*
 * The books, for tests that talk to the ledger itself
 *
 * Accounts and calls of the door in as few words as a test needs, and the whole ledger as a value: a test that says
 * nothing moved reads it before and after.
 */
import { randomUUID } from 'node:crypto'
import type { ExecutionContext } from 'ava'
import type pg from 'pg'
import { audit, describeAudit } from '../../src/db/audit.ts'
import { SERVICE_ACCOUNT, type Transfer } from '../../src/transfer.ts'

type Queryable = Pick<pg.Pool | pg.Client, 'query'>

/** Opens an account, with money in it if so told. */
export async function open(db: Queryable, funds?: string, options: { overdraft?: boolean } = {}): Promise<string> {
  const id = randomUUID()
  await db.query('SELECT ledger.open_account($1, NULL, $2)', [id, options.overdraft ?? false])
  if (funds !== undefined) await fund(db, id, funds)
  return id
}

/** Asks again while somebody else is funding: all money comes from the one service account. */
export async function fund(db: Queryable, destination: string, amount: string): Promise<void> {
  const transfer = request(SERVICE_ACCOUNT, destination, amount)
  for (;;) {
    const [outcome] = await post(db, [transfer])
    if (outcome === 'posted') return
    if (outcome !== null) throw new Error(`funding: ${outcome}`)
  }
}

export function request(source: string, destination: string, amount: string, id: string = randomUUID()): Transfer {
  return { id, source, destination, amount }
}

/** One call of the door. @param door another function of the same form. @returns the outcomes. */
export async function post(
  db: Queryable,
  transfers: readonly Transfer[],
  door = 'ledger.post_transfers',
): Promise<(string | null)[]> {
  const { rows } = await db.query<{ outcomes: (string | null)[] }>(
    `SELECT outcomes FROM ${door}($1::uuid[], $2::uuid[], $3::uuid[], $4::numeric[])`,
    (['id', 'source', 'destination', 'amount'] as const).map((field) => transfers.map((transfer) => transfer[field])),
  )
  return rows[0]?.outcomes ?? []
}

/** Calls again for what was left undecided, until all is decided. */
export async function postAll(
  db: Queryable,
  transfers: readonly Transfer[],
  door?: string,
): Promise<(string | null)[]> {
  const outcomes = await post(db, transfers, door)
  const open = [...outcomes.keys()].filter((position) => outcomes[position] === null)
  if (open.length === 0) return outcomes
  const rest = await postAll(
    db,
    open.map((position) => transfers[position] as Transfer),
    door,
  )
  for (const [n, position] of open.entries()) outcomes[position] = rest[n] ?? null
  return outcomes
}

export async function balance(db: Queryable, account: string): Promise<string | undefined> {
  const [found] = await balances(db, [account])
  return found
}

/** All from one snapshot, in the order asked; undefined where no account is open. */
export async function balances(db: Queryable, accounts: readonly string[]): Promise<(string | undefined)[]> {
  const { rows } = await db.query<{ account: string; balance: string }>(
    'SELECT account, balance FROM ledger.balances($1::uuid[])',
    [accounts],
  )
  const found = new Map(rows.map((row) => [row.account, row.balance]))
  return accounts.map((account) => found.get(account))
}

export type Row = Record<string, unknown>

/** One source's decisions, by index. */
export async function chain(db: Queryable, source: string): Promise<Row[]> {
  const { rows } = await db.query<Row>(
    'SELECT index, id, destination, amount, spent, reason FROM ledger.transfer WHERE source = $1 ORDER BY index',
    [source],
  )
  return rows
}

/** Every row of the ledger, to be compared with what it was before. */
export async function readBooks(db: Queryable): Promise<Record<string, string[]>> {
  const books: Record<string, string[]> = {}
  for (const table of ['account', 'transfer', 'credit', 'closing']) {
    const { rows } = await db.query<{ row: string }>(`SELECT t::text AS row FROM ledger.${table} AS t ORDER BY 1`)
    books[table] = rows.map(({ row }) => row)
  }
  return books
}

/** The audit finds nothing; what it found is printed otherwise. */
export async function balanced(t: ExecutionContext, databaseUrl: string): Promise<void> {
  const result = await audit(databaseUrl)
  if (!result.ok) t.log(describeAudit(result))
  t.true(result.ok, 'the audit of the books')
}

/** A copy of one of the ledger's functions in which `wrong` stands for `right`: for negative controls. */
export async function copyFunction(
  db: Queryable,
  name: string,
  copy: string,
  changes: readonly (readonly [right: string, wrong: string])[],
): Promise<void> {
  const { rows } = await db.query<{ definition: string }>('SELECT pg_get_functiondef($1::regproc) AS definition', [
    name,
  ])
  let definition = rows[0]?.definition.replace(`FUNCTION ${name}`, `FUNCTION ${copy}`) ?? ''
  for (const [right, wrong] of changes) {
    if (!definition.includes(right)) throw new Error(`${name} no longer says: ${right}`)
    definition = definition.replace(right, wrong)
  }
  await db.query(definition)
}

/** Amounts are counted in units of 0.00000001. */
const UNIT = 100_000_000n

export function units(amount: string): bigint
export function units(amount: string | null | undefined): bigint | undefined
export function units(amount: string | null | undefined): bigint | undefined {
  if (amount === null || amount === undefined) return undefined
  const [, sign, whole = '', fraction = ''] = /^(-?)(\d+)(?:\.(\d+))?$/.exec(amount) ?? []
  const size = BigInt(whole) * UNIT + BigInt(fraction.padEnd(8, '0'))
  return sign ? -size : size
}
