/*
 * Transfers in the database
 *
 * The call of the door, the reading of decisions, and the statement of an account.
 */
import { type DatabasePool, sql } from 'slonik'
import { z } from 'zod'
import { type Decision, type Outcome, REASONS, SERVICE_ACCOUNT, type Transfer } from '../transfer.ts'

const postingRow = z.object({
  outcomes: z.array(z.enum(['posted', ...REASONS]).nullable()),
  long_tails: z.array(z.string()),
})

/**
 * Decides a batch in one round trip and one transaction.
 *
 * @returns `outcomes` in the order asked, null where another call holds the source just now: ask again.
 */
export async function postTransfers(
  pool: DatabasePool,
  transfers: readonly Transfer[],
): Promise<{ outcomes: readonly (Outcome | null)[]; long_tails: readonly string[] }> {
  return await pool.one(sql.prepared('post_transfers', postingRow)`
    SELECT outcomes, long_tails
    FROM ledger.post_transfers(
      ${list(transfers.map(({ id }) => id))}::uuid[],
      ${list(transfers.map(({ source }) => source))}::uuid[],
      ${list(transfers.map(({ destination }) => destination))}::uuid[],
      ${list(transfers.map(({ amount }) => amount))}::numeric[]
    )`)
}

/** Strings as Postgres reads an array: it quotes as JSON does. A third of what a worker left for the collector otherwise. */
const list = (members: readonly string[]): string => `{${JSON.stringify(members).slice(1, -1)}}`

const decisionRow = z.object({
  id: z.string(),
  source: z.string(),
  index: z.number(),
  destination: z.string(),
  amount: z.string(),
  reason: z.enum(REASONS).nullable(),
  recorded_at: z.string(),
})

/** The decisions of these ids, in their order; null where there is none yet. */
export async function readDecisions(pool: DatabasePool, ids: readonly string[]): Promise<(Decision | null)[]> {
  // LATERAL with a LIMIT keeps this a probe of the index per id, whatever the planner believes about the table.
  const rows = await pool.any(sql.prepared('read_decisions', decisionRow)`
    SELECT decided.*
    FROM unnest(${sql.array(ids, 'uuid')}) AS asked (id)
    CROSS JOIN LATERAL (
      SELECT id, source, index, destination, amount, reason, recorded_at
      FROM ledger.transfer WHERE transfer.id = asked.id
      LIMIT 1
    ) AS decided`)
  const found = new Map(rows.map((row) => [row.id, decision(row)]))
  return ids.map((id) => found.get(id) ?? null)
}

function decision({ reason, ...row }: z.infer<typeof decisionRow>): Decision {
  return reason === null ? { ...row, status: 'posted' } : { ...row, status: 'rejected', reason }
}

/** A line of a statement: a decision as one of its two accounts sees it. */
export type Line = {
  id: string
  direction: 'sent' | 'received'
  account: string
  amount: string
  index: number
  status: 'posted' | 'rejected'
  reason?: (typeof REASONS)[number]
  recorded_at: string
}

/** Where the next page goes on: below this index of the account's own chain, below this credit of its book. */
export const statementCursor = z.object({
  sent: z.int().min(0),
  received: z.tuple([
    z
      .string()
      .regex(/^\d{1,20}$/)
      .refine((xid) => BigInt(xid) < 2n ** 64n),
    z.iso.datetime().refine((moment) => moment >= '0001'),
    z.guid(),
    z.int().min(0),
  ]),
})

export type StatementCursor = z.infer<typeof statementCursor>

const START: StatementCursor = {
  sent: Number.MAX_SAFE_INTEGER,
  received: ['18446744073709551615', '9999-12-31T23:59:59Z', 'ffffffff-ffff-ffff-ffff-ffffffffffff', 0],
}

const END: StatementCursor = { sent: 0, received: ['0', '0001-01-01T00:00:00Z', SERVICE_ACCOUNT, 0] }

const creditRow = decisionRow.omit({ destination: true, reason: true }).extend({ xid: z.string() })

/**
 * A page of an account's statement, newest first: what it sent in the order of its chain, what it received in the
 * order in which transactions wrote it, and the two merged by time.
 */
export async function readStatement(
  pool: DatabasePool,
  account: string,
  limit: number,
  cursor: StatementCursor = START,
): Promise<{ lines: Line[]; next: StatementCursor | null }> {
  const [xid, recorded_at, source, index] = cursor.received
  const [sent, received] = await Promise.all([
    pool.any(sql.type(decisionRow)`
      SELECT id, source, index, destination, amount, reason, recorded_at
      FROM ledger.transfer
      WHERE source = ${account} AND index < ${cursor.sent}
      ORDER BY index DESC LIMIT ${limit + 1}`),
    // Within one transaction by time: after a restore into another cluster, all of the past has one transaction id.
    pool.any(sql.type(creditRow)`
      SELECT credit.xid::text AS xid, origin.id, credit.source, credit.index, credit.amount, credit.recorded_at
      FROM (
        SELECT * FROM ledger.credit
        WHERE destination = ${account}
          AND (xid, recorded_at, source, index) < (${xid}, ${recorded_at}, ${source}, ${index})
        ORDER BY xid DESC, recorded_at DESC, source DESC, index DESC LIMIT ${limit + 1}
      ) AS credit
      CROSS JOIN LATERAL (
        SELECT id FROM ledger.transfer
        WHERE transfer.source = credit.source AND transfer.index = credit.index LIMIT 1
      ) AS origin
      ORDER BY credit.xid DESC, credit.recorded_at DESC, credit.source DESC, credit.index DESC`),
  ])

  const lines: Line[] = []
  let [debits, credits] = [0, 0]
  while (lines.length < limit) {
    const [debit, credit] = [sent[debits], received[credits]]
    if (debit && (!credit || isLater(debit.recorded_at, credit.recorded_at))) {
      lines.push(sentLine(debit))
      debits += 1
    } else if (credit) {
      const { id, source: account, amount, index, recorded_at } = credit
      lines.push({ id, direction: 'received', account, amount, index, recorded_at, status: 'posted' })
      credits += 1
    } else break
  }

  const [debit, credit] = [sent[debits], received[credits]]
  if (!debit && !credit) return { lines, next: null }
  // At the first line that is left of each kind, so that nothing which arrives meanwhile gets into a later page.
  const next: StatementCursor = {
    sent: debit ? debit.index + 1 : END.sent,
    received: credit ? [credit.xid, credit.recorded_at, credit.source, credit.index + 1] : END.received,
  }
  return { lines, next }
}

/** Of two moments as Postgres writes them. Without the Z, since it drops zeros at the end: "0.5Z" is before "0.51Z". */
function isLater(a: string, b: string): boolean {
  return a.slice(0, -1) > b.slice(0, -1)
}

function sentLine({ id, destination: account, amount, index, reason, recorded_at }: z.infer<typeof decisionRow>): Line {
  const line = { id, direction: 'sent' as const, account, amount, index, recorded_at }
  return reason === null ? { ...line, status: 'posted' } : { ...line, status: 'rejected', reason }
}
