/*
 * Transfers in the database
 *
 * The call of the door, the reading of decisions, and the statement of an account.
 */
import { type DatabasePool, sql } from 'slonik'
import { z } from 'zod'
import { type Decision, type Outcome, REASONS, type Transfer } from '../transfer.ts'

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
      ${sql.array(
        transfers.map((transfer) => transfer.id),
        'uuid',
      )},
      ${sql.array(
        transfers.map((transfer) => transfer.source),
        'uuid',
      )},
      ${sql.array(
        transfers.map((transfer) => transfer.destination),
        'uuid',
      )},
      ${sql.array(
        transfers.map((transfer) => transfer.amount),
        'numeric',
      )}
    )`)
}

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
  received: z.tuple([z.string().regex(/^\d{1,20}$/), z.guid(), z.int().min(0)]),
})

export type StatementCursor = z.infer<typeof statementCursor>

const START: StatementCursor = {
  sent: Number.MAX_SAFE_INTEGER,
  received: ['18446744073709551615', 'ffffffff-ffff-ffff-ffff-ffffffffffff', 0],
}

const lineRow = decisionRow.extend({ direction: z.enum(['sent', 'received']), xid: z.string() })

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
  const [xid, source, index] = cursor.received
  const rows = await pool.any(sql.type(lineRow)`
    (
      SELECT 'sent' AS direction, '0' AS xid, id, source, index, destination, amount, reason, recorded_at
      FROM ledger.transfer
      WHERE source = ${account} AND index < ${cursor.sent}
      ORDER BY index DESC LIMIT ${limit + 1}
    )
    UNION ALL
    (
      SELECT 'received', credit.xid::text, origin.id, credit.source, credit.index, credit.destination, credit.amount,
        NULL, credit.recorded_at
      FROM (
        SELECT * FROM ledger.credit
        WHERE destination = ${account} AND (xid, source, index) < (${xid}, ${source}, ${index})
        ORDER BY xid DESC, source DESC, index DESC LIMIT ${limit + 1}
      ) AS credit
      CROSS JOIN LATERAL (
        SELECT id FROM ledger.transfer
        WHERE transfer.source = credit.source AND transfer.index = credit.index LIMIT 1
      ) AS origin
    )`)

  const sent = rows.filter((row) => row.direction === 'sent').sort((a, b) => b.index - a.index)
  const received = rows.filter((row) => row.direction === 'received').sort(newestCreditFirst)
  const lines: Line[] = []
  const next = structuredClone(cursor)
  while (lines.length < limit) {
    const [head, other] = [sent[0], received[0]]
    const row = head && (!other || head.recorded_at > other.recorded_at) ? sent.shift() : received.shift()
    if (!row) break
    if (row.direction === 'sent') next.sent = row.index
    else next.received = [row.xid, row.source, row.index]
    lines.push(line(row))
  }
  return { lines, next: sent.length + received.length > 0 ? next : null }
}

function newestCreditFirst(a: z.infer<typeof lineRow>, b: z.infer<typeof lineRow>): number {
  if (a.xid !== b.xid) return BigInt(b.xid) > BigInt(a.xid) ? 1 : -1
  if (a.source !== b.source) return b.source > a.source ? 1 : -1
  return b.index - a.index
}

function line(row: z.infer<typeof lineRow>): Line {
  const { id, direction, amount, index, reason, recorded_at } = row
  const account = direction === 'sent' ? row.destination : row.source
  const common = { id, direction, account, amount, index, recorded_at }
  return reason === null ? { ...common, status: 'posted' } : { ...common, status: 'rejected', reason }
}
