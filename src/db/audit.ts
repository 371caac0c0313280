/*
 * The audit
 *
 * Holds the whole ledger against its own rules (rule.ts), re-deriving everything from the transfers: a book that was
 * changed by a superuser, a broken restore or a bug of ours is found here. It only reads, works as the same role as the
 * service, and sees one moment (one snapshot), so the service may go on meanwhile. Each rule is one statement that
 * selects the rows which break it, so memory stays small whatever the ledger's size; Postgres sorts on disk what does
 * not fit. `npm run audit` prints what was checked, and the first violations of each rule; `npm run audit -- --at TIME`
 * audits the ledger as it was at that moment: what had been recorded by then, and the balances answered for it.
 *
 * What cannot be told from the ledger alone, and is not found:
 * - a history rewritten whole: transfers taken off the end of a chain together with their credits (and the closings
 *   above), or changed alike wherever they stand. Only what is kept elsewhere tells: backups, clients' receipts;
 * - an id exchanged for another: keys are not kept. Checked is that no id occurs twice;
 * - what a rejection says: it moves nothing and leaves no trace in any other book. Checked is that it moved nothing and
 *   contradicts nothing that its chain knew by then;
 * - an account's overdraft, if it is granted to who never used it, and when it was opened;
 * - that a submission which was accepted is here at all: the demo and the bench count that from outside.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import pg from 'pg'
import { readSettings } from '../settings.ts'
import { pastMoment } from '../transfer.ts'
import { asApp } from './pool.ts'
import { RULES, tablesAt } from './rule.ts'

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
  /** The audited moment; null is now. */
  at: string | null
  accounts: number
  posted: number
  rejected: number
  credits: number
  closings: number
  checks: Check[]
}

type Size = Pick<Audit, 'accounts' | 'posted' | 'rejected' | 'credits' | 'closings'>

/**
 * @param options.rows violations to keep of each check; all are counted.
 * @param options.at a past moment, RFC 3339.
 */
export async function audit(databaseUrl: string, options: { rows?: number; at?: string } = {}): Promise<Audit> {
  const { rows = 10, at } = options
  const client = new pg.Client({ connectionString: asApp(databaseUrl) })
  await client.connect()
  try {
    await client.query(`
      BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY;
      SET LOCAL statement_timeout = 0;
      SET LOCAL work_mem = '128MB';
      -- Compiling these once costs less than it saves only on ledgers so large that the disk decides.
      SET LOCAL jit = off`)
    const tables = tablesAt(at === undefined ? null : `${client.escapeLiteral(at)}::timestamptz`)
    const size = await sizeUp(client, tables)
    const checks: Check[] = []
    for (const { name, promise, violations } of RULES) {
      const began = performance.now()
      const found = await client.query<{ total: string; row: string }>(
        `${tables},
        violation AS (${violations}
        )
        SELECT count(*) OVER () AS total, to_jsonb(violation)::text AS row FROM violation LIMIT $1`,
        [Math.max(1, rows)],
      )
      checks.push({
        name,
        promise,
        violations: Number(found.rows[0]?.total ?? 0),
        rows: found.rows.slice(0, rows).map(({ row }) => row),
        duration_ms: Math.round(performance.now() - began),
      })
    }
    return { ok: checks.every((check) => check.violations === 0), at: at ?? null, ...size, checks }
  } finally {
    await client.end()
  }
}

async function sizeUp(client: pg.Client, tables: string): Promise<Size> {
  const { rows } = await client.query<Record<keyof Size, string>>(`${tables}
    SELECT (SELECT count(*) FROM account) AS accounts, (SELECT count(*) FROM credit) AS credits,
      (SELECT count(*) FROM closing) AS closings,
      count(*) FILTER (WHERE reason IS NULL) AS posted, count(reason) AS rejected
    FROM transfer`)
  const [size] = rows
  if (!size) throw new Error('an aggregate without a row')
  const { accounts, posted, rejected, credits, closings } = size
  return {
    accounts: Number(accounts),
    posted: Number(posted),
    rejected: Number(rejected),
    credits: Number(credits),
    closings: Number(closings),
  }
}

/** For people. */
export function describeAudit({ ok, at, accounts, posted, rejected, credits, closings, checks }: Audit): string {
  const count = (n: number, what: string) => `${n.toLocaleString('en')} ${what}${n === 1 ? '' : 's'}`
  const lines = [
    `the books${at === null ? '' : ` at ${at}`}: ${count(accounts, 'account')}, ${count(posted + rejected, 'transfer')} ` +
      `(${posted.toLocaleString('en')} posted, ${rejected.toLocaleString('en')} rejected), ` +
      `${count(credits, 'credit')}, ${count(closings, 'closing')}`,
  ]
  for (const { name, promise, violations, rows, duration_ms } of checks) {
    const verdict = violations === 0 ? 'ok' : 'WRONG'
    lines.push(`  ${verdict.padEnd(6)}${name.padEnd(14)}${promise} (${(duration_ms / 1000).toFixed(1)} s)`)
    if (violations > 0) lines.push(`        ${count(violations, 'violation')}:`)
    for (const row of rows) lines.push(`        ${row}`)
    if (violations > rows.length) lines.push(`        and ${(violations - rows.length).toLocaleString('en')} more`)
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

const USAGE = `npm run audit [-- --at TIME]
  Holds the ledger in DATABASE_URL, or the embedded one that is running, against its own rules.
  --at TIME  as it was at a past moment (RFC 3339, such as 2026-01-31T12:00:00Z)
Exit code: 0 the books balance, 1 they do not, 2 they could not be audited.`

/** @returns the exit code. */
async function main(): Promise<number> {
  const { values } = parseArgs({ options: { at: { type: 'string' }, help: { type: 'boolean', short: 'h' } } })
  if (values.help) {
    console.log(USAGE)
    return 0
  }
  const moment = pastMoment.optional().safeParse(values.at)
  if (!moment.success) throw new Error(`--at ${values.at}: must be ${moment.error.issues[0]?.message}`)
  const { DATABASE_URL, DATA_DIR } = readSettings()
  const databaseUrl = DATABASE_URL ?? (await embeddedUrl(DATA_DIR))
  const result = await audit(databaseUrl, moment.data === undefined ? {} : { at: moment.data })
  console.log(describeAudit(result))
  return result.ok ? 0 : 1
}

if (import.meta.main) {
  process.exitCode = await main().catch((error: unknown) => {
    // A refused connection is an error of several addresses, without a message of its own.
    const reasons = error instanceof AggregateError ? error.errors : [error]
    console.error(`not audited: ${reasons.map((reason) => reason?.message ?? String(reason)).join('; ')}`)
    return 2
  })
}
