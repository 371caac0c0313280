/*
 * The rules of the ledger
 *
 * What the audit holds the ledger against. Each rule is one statement that selects the rows which break it, out of
 * `account`, `transfer`, `credit` and `closing` as they were at the audited moment, and `answered`, the balances that
 * the service gives for it. A rule believes no constraint, trigger or function, and derives what should be from the
 * transfers; each row is held against the one before it, so that one wrong row is one violation.
 *
 * Next: audit.ts, which runs them.
 */

export type Rule = { name: string; promise: string; violations: string }

export const RULES: readonly Rule[] = [
  {
    name: 'chains',
    promise:
      'each chain counts 0, 1, 2 ... without a gap, `spent` grows by what is posted and by nothing else, time never ' +
      'runs back, and a source once known stays known',
    // By induction: what the row before should have been is that row's own check.
    violations: `
      SELECT *
      FROM (
        SELECT source, index, id, amount, reason, spent, recorded_at,
          lag(index, 1, -1::bigint) OVER chain + 1 AS expected_index,
          lag(spent, 1, 0::numeric) OVER chain + CASE WHEN reason IS NULL THEN amount ELSE 0 END AS expected_spent,
          lag(recorded_at) OVER chain AS earliest,
          lag(reason IS DISTINCT FROM 'unknown_source', 1, false) OVER chain AS known
        FROM transfer
        WINDOW chain AS (PARTITION BY source ORDER BY index)
      ) AS decision
      WHERE index IS DISTINCT FROM expected_index OR spent IS DISTINCT FROM expected_spent OR recorded_at < earliest
        OR (known AND reason = 'unknown_source')`,
  },
  {
    name: 'transfers',
    promise: 'amounts are in bounds, source and destination differ, and whoever was known to a decision is open',
    violations: `
      SELECT transfer.*, origin.id IS NOT NULL AS source_open, target.id IS NOT NULL AS destination_open
      FROM transfer
      LEFT JOIN account AS origin ON origin.id = transfer.source
      LEFT JOIN account AS target ON target.id = transfer.destination
      WHERE (transfer.amount > 0 AND transfer.amount < 1e20 AND scale(transfer.amount) <= 8) IS NOT TRUE
        OR (transfer.source <> transfer.destination) IS NOT TRUE
        OR (origin.id IS NULL AND transfer.reason IS DISTINCT FROM 'unknown_source')
        OR (target.id IS NULL AND (transfer.reason IS NULL OR transfer.reason = 'insufficient_funds'))
        OR (transfer.reason = 'insufficient_funds' AND origin.overdraft)`,
  },
  {
    name: 'ids',
    promise: 'no id occurs twice, whatever its source: every transfer is decided once',
    violations: `
      SELECT transfer.*
      FROM transfer
      JOIN (SELECT id FROM transfer GROUP BY id HAVING count(*) > 1) AS twice ON twice.id = transfer.id`,
  },
  {
    name: 'double entry',
    promise: 'every posted transfer has exactly one credit, equal to it, and there is no other credit',
    // Nor one from a transaction that has not been: no closing would ever count it.
    violations: `
      SELECT posted.source, posted.index, posted.destination, posted.amount, posted.recorded_at,
        entry.source AS credit_source, entry.index AS credit_index, entry.destination AS credited,
        entry.amount AS credit_amount, entry.recorded_at AS credit_recorded_at, entry.xid, entry.copies
      FROM (SELECT * FROM transfer WHERE reason IS NULL) AS posted
      FULL JOIN (
        SELECT *, count(*) OVER (PARTITION BY source, index) AS copies FROM credit
      ) AS entry ON entry.source = posted.source AND entry.index = posted.index
      WHERE (entry.destination = posted.destination AND entry.amount = posted.amount
        AND entry.recorded_at = posted.recorded_at AND entry.copies = 1
        AND entry.xid < pg_snapshot_xmax(pg_current_snapshot())) IS NOT TRUE`,
  },
  {
    name: 'funds',
    promise:
      'without an overdraft, nobody ever spent more than had been received by then, in the order of transactions',
    // By then: the door reads what was received before its transaction writes anything, and so before that is given its
    // transaction id. Hence a posting can only rest on credits with a lower id than its own, and its own is on its
    // credit. (What was posted before a restore from another cluster has lost that order: all of it has id 3.)
    violations: `
      SELECT history.*
      FROM (
        SELECT account, xid, received, spent,
          sum(received) OVER (PARTITION BY account ORDER BY xid) - received AS received_before,
          sum(spent) OVER (PARTITION BY account ORDER BY xid) AS spent_by_then
        FROM (
          SELECT account, xid, sum(received) AS received, sum(spent) AS spent
          FROM (
            SELECT destination AS account, xid, amount AS received, 0 AS spent FROM credit
            UNION ALL
            SELECT source, xid, 0, amount FROM credit
          ) AS side
          GROUP BY account, xid
        ) AS movement
      ) AS history
      JOIN account ON account.id = history.account AND NOT account.overdraft
      WHERE spent > 0 AND spent_by_then > received_before AND xid <> '3'`,
  },
  {
    name: 'past',
    promise: 'without an overdraft, no balance was below 0 at any moment of the past',
    // The door takes the moment of a debit after it has read the credits, so at that moment they had been recorded. Only a
    // clock of the database that was set back can break this while the funds are right; past balances are wrong then.
    violations: `
      SELECT history.*
      FROM (
        SELECT *, sum(amount) OVER (PARTITION BY account ORDER BY recorded_at) AS balance
        FROM (
          SELECT destination AS account, NULL::bigint AS index, amount, recorded_at FROM transfer WHERE reason IS NULL
          UNION ALL
          SELECT source, index, -amount, recorded_at FROM transfer WHERE reason IS NULL
        ) AS movement
      ) AS history
      JOIN account ON account.id = history.account AND NOT account.overdraft
      WHERE history.index IS NOT NULL AND history.balance < 0`,
  },
  {
    name: 'balances',
    promise: 'the balance that the service answers is what the transfers add up to, and never below 0',
    violations: `
      SELECT answered.account, account.overdraft, answered.balance, coalesce(derived.balance, 0) AS derived
      FROM answered
      JOIN account ON account.id = answered.account
      LEFT JOIN (
        SELECT account, sum(amount) AS balance
        FROM (
          SELECT destination AS account, amount FROM transfer WHERE reason IS NULL
          UNION ALL
          SELECT source, -amount FROM transfer WHERE reason IS NULL
        ) AS side
        GROUP BY account
      ) AS derived ON derived.account = answered.account
      WHERE answered.balance IS DISTINCT FROM coalesce(derived.balance, 0)
        OR (NOT account.overdraft AND answered.balance < 0)`,
  },
  {
    name: 'sum',
    promise: 'all balances that the service answers sum to 0: no money was made or lost',
    violations: 'SELECT sum(balance) AS sum FROM answered HAVING sum(balance) <> 0',
  },
  {
    name: 'closings',
    promise: 'each closing claims what the credits below its horizon add up to, and none lies ahead',
    // By induction again, so that each credit is read once however many closings stand above it. One with a horizon ahead
    // would hide the credits to come.
    violations: `
      SELECT book.*, book.before + since.amount AS expected
      FROM (
        SELECT account, horizon, received,
          lag(received, 1, 0::numeric) OVER chain AS before, lag(horizon, 1, '0'::xid8) OVER chain AS horizon_before
        FROM closing
        WINDOW chain AS (PARTITION BY account ORDER BY horizon)
      ) AS book
      CROSS JOIN LATERAL (
        SELECT coalesce(sum(amount), 0) AS amount FROM credit
        WHERE destination = book.account AND xid >= book.horizon_before AND xid < book.horizon
      ) AS since
      WHERE book.received IS DISTINCT FROM book.before + since.amount
        OR book.horizon > pg_snapshot_xmin(pg_current_snapshot())`,
  },
]

/**
 * The tables of the rules, as they were at a moment.
 *
 * @param at an SQL expression of type timestamptz; null for now.
 * @returns the head of a WITH, to be followed by a comma. A table that is named twice is read twice: stored in between, it
 *   would be written to disk.
 */
export function tablesAt(at: string | null): string {
  const by = (column: string) => (at === null ? '' : `WHERE ${column} <= ${at}`)
  const answered =
    at === null
      ? `SELECT account.id AS account, credits.received - debits.spent AS balance
         FROM ledger.account
         CROSS JOIN LATERAL ledger.received(account.id) AS credits
         CROSS JOIN LATERAL ledger.spent(account.id) AS debits`
      : `SELECT id AS account, ledger.balance_at(id, ${at}) AS balance FROM account`
  return `WITH
    account AS NOT MATERIALIZED (SELECT * FROM ledger.account ${by('created_at')}),
    transfer AS NOT MATERIALIZED (SELECT * FROM ledger.transfer ${by('recorded_at')}),
    credit AS NOT MATERIALIZED (SELECT * FROM ledger.credit ${by('recorded_at')}),
    closing AS NOT MATERIALIZED (SELECT * FROM ledger.closing ${by('created_at')}),
    answered AS NOT MATERIALIZED (${answered})`
}
