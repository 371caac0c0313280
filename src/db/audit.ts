/*
 * The audit
 *
 * Holds the whole ledger against its own rules, re-deriving everything from the transfers. It believes no constraint,
 * trigger or function: a book that was changed by a superuser, a broken restore or a bug of ours is found here. It only
 * reads, works as the same role as the service, and sees one moment (one snapshot), so the service may go on meanwhile.
 * Each check is one statement that selects the rows which break a rule, so memory stays small whatever the ledger's
 * size; Postgres sorts on disk what does not fit. `npm run audit` prints what was checked, and each violation.
 *
 * What cannot be told from the ledger alone, and is not checked:
 * - that the id of a keyed transfer is the one its key gives: keys are not kept. Checked is that no id occurs twice;
 * - that a rejection was right when it was made: what else its batch spent just before it is known, but a rejection
 *   writes no credit, so which credits it could see is not. That it moved nothing is checked;
 * - that a submission which was accepted is here at all: the demo and the bench count that from outside.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import pg from 'pg'
import { readSettings } from '../settings.ts'
import { asApp } from './pool.ts'

export type Check = {
  name: string
  promise: string
  violations: number
  /** The first violations as Postgres writes rows, as JSON with exact decimals. */
  rows: string[]
  duration_ms: number
}

export type Audit = {
  ok: boolean
  accounts: number
  posted: number
  rejected: number
  closings: number
  checks: Check[]
}

const RULES: { name: string; promise: string; violations: string }[] = [
  {
    name: 'chains',
    promise: 'each chain counts 0, 1, 2 ... without a gap, `spent` grows by what is posted, and time never runs back',
    // By induction: each row against the one before it. What that one should have been is that one's own check.
    violations: `
      SELECT *
      FROM (
        SELECT source, index, id, amount, reason, spent, recorded_at,
          lag(index, 1, -1::bigint) OVER chain + 1 AS expected_index,
          lag(spent, 1, 0::numeric) OVER chain + CASE WHEN reason IS NULL THEN amount ELSE 0 END AS expected_spent,
          lag(recorded_at) OVER chain AS earliest
        FROM ledger.transfer
        WINDOW chain AS (PARTITION BY source ORDER BY index)
      ) AS transfer
      WHERE index <> expected_index OR spent <> expected_spent OR recorded_at < earliest`,
  },
  {
    name: 'transfers',
    promise: 'amounts are above 0, source and destination differ, and both of a posted transfer are open accounts',
    violations: `
      SELECT transfer.*, origin.id IS NOT NULL AS source_open, target.id IS NOT NULL AS destination_open
      FROM ledger.transfer
      LEFT JOIN ledger.account AS origin ON origin.id = transfer.source
      LEFT JOIN ledger.account AS target ON target.id = transfer.destination
      WHERE (transfer.amount > 0 AND transfer.amount < 'Infinity') IS NOT TRUE
        OR transfer.source = transfer.destination
        OR (transfer.reason IS NULL AND (origin.id IS NULL OR target.id IS NULL))
        OR (transfer.reason = 'insufficient_funds' AND origin.overdraft)`,
  },
  {
    name: 'ids',
    promise: 'no id occurs twice, whatever its source: every transfer is decided once',
    violations: 'SELECT id, count(*) AS occurrences FROM ledger.transfer GROUP BY id HAVING count(*) > 1',
  },
  {
    name: 'double entry',
    promise: 'every posted transfer has exactly one credit, equal to it, and there is no other credit',
    violations: `
      SELECT posted.source, posted.index, posted.destination, posted.amount, posted.recorded_at,
        credit.source AS credit_source, credit.index AS credit_index, credit.destination AS credited,
        credit.amount AS credit_amount, credit.recorded_at AS credit_recorded_at, credit.copies
      FROM (SELECT * FROM ledger.transfer WHERE reason IS NULL) AS posted
      FULL JOIN (
        SELECT *, count(*) OVER (PARTITION BY source, index) AS copies FROM ledger.credit
      ) AS credit ON credit.source = posted.source AND credit.index = posted.index
      WHERE (credit.destination = posted.destination AND credit.amount = posted.amount
        AND credit.recorded_at = posted.recorded_at AND credit.copies = 1) IS NOT TRUE`,
  },
  {
    name: 'funds',
    promise: 'without an overdraft, nobody ever spent more than had been received by then',
    // By then: the door reads what was received before its transaction writes anything, and so before that is given its
    // transaction id. Hence a posting can only rest on credits with a lower id than its own, and its own is on its
    // credit. (Not on credits recorded earlier: of two calls at once, the later may be the first to commit. What was
    // posted before a restore from another cluster has lost its order, all of it has id 3, and is not checked.)
    violations: `
      SELECT *
      FROM (
        SELECT account, xid, received, spent,
          sum(received) OVER (PARTITION BY account ORDER BY xid) - received AS received_before,
          sum(spent) OVER (PARTITION BY account ORDER BY xid) AS spent_by_then
        FROM (
          SELECT account, xid, sum(received) AS received, sum(spent) AS spent
          FROM (
            SELECT destination AS account, xid, amount AS received, 0 AS spent FROM ledger.credit
            UNION ALL
            SELECT source, xid, 0, amount FROM ledger.credit
          ) AS side
          GROUP BY account, xid
        ) AS movement
      ) AS history
      JOIN ledger.account ON account.id = history.account AND NOT account.overdraft
      WHERE spent > 0 AND spent_by_then > received_before AND xid <> '3'`,
  },
  {
    name: 'balances',
    promise: 'the balance that the service answers is what the transfers add up to, and never below 0',
    violations: `
      SELECT account.id, account.overdraft, answered.balance, coalesce(derived.balance, 0) AS derived
      FROM ledger.account
      CROSS JOIN LATERAL (
        SELECT credits.received - debits.spent AS balance
        FROM ledger.received(account.id) AS credits CROSS JOIN ledger.spent(account.id) AS debits
      ) AS answered
      LEFT JOIN (
        SELECT account, sum(amount) AS balance
        FROM (
          SELECT destination AS account, amount FROM ledger.transfer WHERE reason IS NULL
          UNION ALL
          SELECT source, -amount FROM ledger.transfer WHERE reason IS NULL
        ) AS side
        GROUP BY account
      ) AS derived ON derived.account = account.id
      WHERE answered.balance <> coalesce(derived.balance, 0)
        OR (NOT account.overdraft AND answered.balance < 0)`,
  },
  {
    name: 'sum',
    promise: 'all balances that the service answers sum to 0: no money was made or lost',
    violations: `
      SELECT sum(credits.received) AS received, sum(debits.spent) AS spent
      FROM ledger.account
      CROSS JOIN LATERAL ledger.received(account.id) AS credits
      CROSS JOIN LATERAL ledger.spent(account.id) AS debits
      HAVING sum(credits.received) <> sum(debits.spent)`,
  },
  {
    name: 'closings',
    promise: 'each closing claims what the credits below its horizon add up to',
    // By induction again, so that each credit is read once however many closings stand above it.
    violations: `
      SELECT closing.*, closing.before + since.amount AS expected
      FROM (
        SELECT account, horizon, received,
          lag(received, 1, 0::numeric) OVER book AS before, lag(horizon, 1, '0'::xid8) OVER book AS horizon_before
        FROM ledger.closing
        WINDOW book AS (PARTITION BY account ORDER BY horizon)
      ) AS closing
      CROSS JOIN LATERAL (
        SELECT coalesce(sum(amount), 0) AS amount FROM ledger.credit
        WHERE destination = closing.account AND xid >= closing.horizon_before AND xid < closing.horizon
      ) AS since
      WHERE closing.received <> closing.before + since.amount`,
  },
]

/**
 * @param options.rows violations to keep of each check; all are counted.
 * @param options.onCheck called as each check begins.
 */
export async function audit(
  databaseUrl: string,
  options: { rows?: number; onCheck?: (name: string) => void } = {},
): Promise<Audit> {
  const { rows = 10, onCheck } = options
  const client = new pg.Client({ connectionString: asApp(databaseUrl) })
  await client.connect()
  try {
    await client.query(`
      BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY;
      SET LOCAL statement_timeout = 0;
      SET LOCAL work_mem = '128MB';
      -- Compiling these once costs less than it saves only on ledgers so large that the disk decides.
      SET LOCAL jit = off`)
    const size = await sizeUp(client)
    const checks: Check[] = []
    for (const { name, promise, violations } of RULES) {
      onCheck?.(name)
      const began_ms = performance.now()
      const found = await client.query<{ total: string; row: string }>(
        `WITH violation AS (${violations}
        )
        SELECT count(*) OVER () AS total, to_jsonb(violation)::text AS row FROM violation LIMIT $1`,
        [Math.max(1, rows)],
      )
      checks.push({
        name,
        promise,
        violations: Number(found.rows[0]?.total ?? 0),
        rows: found.rows.slice(0, rows).map(({ row }) => row),
        duration_ms: Math.round(performance.now() - began_ms),
      })
    }
    return { ok: checks.every((check) => check.violations === 0), ...size, checks }
  } finally {
    await client.end()
  }
}

async function sizeUp(client: pg.Client): Promise<Omit<Audit, 'ok' | 'checks'>> {
  const { rows } = await client.query<Record<'accounts' | 'posted' | 'rejected' | 'closings', string>>(`
    SELECT (SELECT count(*) FROM ledger.account) AS accounts, (SELECT count(*) FROM ledger.closing) AS closings,
      count(*) FILTER (WHERE reason IS NULL) AS posted, count(reason) AS rejected
    FROM ledger.transfer`)
  const [size] = rows
  if (!size) throw new Error('an aggregate without a row')
  const { accounts, posted, rejected, closings } = size
  return {
    accounts: Number(accounts),
    posted: Number(posted),
    rejected: Number(rejected),
    closings: Number(closings),
  }
}

/** For people. */
export function describeAudit({ ok, accounts, posted, rejected, closings, checks }: Audit): string {
  const count = (n: number, what: string) => `${n.toLocaleString('en')} ${what}${n === 1 ? '' : 's'}`
  const lines = [
    `the books: ${count(accounts, 'account')}, ${count(posted + rejected, 'transfer')} ` +
      `(${posted.toLocaleString('en')} posted, ${rejected.toLocaleString('en')} rejected), ${count(closings, 'closing')}`,
  ]
  for (const { name, promise, violations, rows, duration_ms } of checks) {
    const verdict = violations === 0 ? 'ok' : 'WRONG'
    lines.push(`  ${verdict.padEnd(6)}${name.padEnd(14)}${promise} (${(duration_ms / 1000).toFixed(1)} s)`)
    if (violations > 0) lines.push(`        ${count(violations, 'violation')}, of which:`)
    for (const row of rows) lines.push(`        ${row}`)
  }
  lines.push(ok ? 'they balance' : 'THEY DO NOT BALANCE')
  return lines.join('\n')
}

/**
 * The embedded Postgres of a service that runs on this data folder (see embedded.ts); line 4 of its pid file is its port.
 *
 * @throws Error if there is none, or if it is another user's.
 */
export async function embeddedUrl(dataDir: string): Promise<string> {
  try {
    const home = join(dataDir, 'postgres')
    const password = (await readFile(join(home, 'password'), 'utf8')).trim()
    const port = (await readFile(join(home, 'cluster', 'postmaster.pid'), 'utf8')).split('\n')[3]
    return `postgres://transfer:${password}@127.0.0.1:${port}/transfer`
  } catch (error) {
    throw new Error(
      `DATABASE_URL is not set, and no embedded Postgres that you may read is running on ${dataDir} (DATA_DIR): ` +
        'name the database, or npm start first',
      { cause: error },
    )
  }
}

async function main(): Promise<void> {
  const { DATABASE_URL, DATA_DIR } = readSettings()
  const result = await audit(DATABASE_URL ?? (await embeddedUrl(DATA_DIR)))
  console.log(describeAudit(result))
  if (!result.ok) process.exitCode = 1
}

if (import.meta.main) {
  await main().catch((error: unknown) => {
    console.error(error instanceof Error ? error.message : error)
    process.exitCode = 1
  })
}
