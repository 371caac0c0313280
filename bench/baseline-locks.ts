/*
 * Baseline: locked rows
 *
 * What most people would write: a balance column, and one transaction per transfer that locks both accounts with
 * SELECT ... FOR UPDATE (in the order of their ids, so it does not deadlock), checks, updates both and records the
 * transfer. Synchronous: the answer says that it is done. Statements are prepared and connections pooled.
 */
import type { Baseline } from './baseline.ts'

export const lockedRows: Baseline = {
  schema: `
    CREATE SCHEMA baseline;
    CREATE TABLE baseline.account (
      id         uuid    PRIMARY KEY,
      balance    numeric NOT NULL CHECK (balance >= 0)
    );
    CREATE TABLE baseline.transfer (
      id          uuid        PRIMARY KEY,
      source      uuid        NOT NULL REFERENCES baseline.account,
      destination uuid        NOT NULL REFERENCES baseline.account,
      amount      numeric     NOT NULL CHECK (amount > 0),
      recorded_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE INDEX ON baseline.transfer (source, recorded_at);
    CREATE INDEX ON baseline.transfer (destination, recorded_at)`,

  open: 'INSERT INTO baseline.account SELECT id, 1000000 FROM unnest($1::uuid[]) AS id',

  transfer: async (client, { id, source, destination, amount }) => {
    await client.query('BEGIN')
    const { rows } = await client.query<{ id: string; funded: boolean }>({
      name: 'lock',
      text: `
        SELECT id, balance >= $3::numeric AS funded FROM baseline.account WHERE id IN ($1, $2)
        ORDER BY id FOR UPDATE`,
      values: [source, destination, amount],
    })
    const refusal =
      rows.length < 2
        ? 'unknown account'
        : rows.find((row) => row.id === source)?.funded
          ? undefined
          : 'insufficient funds'
    if (refusal) {
      await client.query('ROLLBACK')
      return { status: 422, refusal }
    }
    await client.query({
      name: 'debit',
      text: 'UPDATE baseline.account SET balance = balance - $2 WHERE id = $1',
      values: [source, amount],
    })
    await client.query({
      name: 'credit',
      text: 'UPDATE baseline.account SET balance = balance + $2 WHERE id = $1',
      values: [destination, amount],
    })
    await client.query({
      name: 'record',
      text: 'INSERT INTO baseline.transfer (id, source, destination, amount) VALUES ($1, $2, $3, $4)',
      values: [id, source, destination, amount],
    })
    await client.query('COMMIT')
    return { status: 201 }
  },

  count: 'SELECT count(*) AS decided FROM baseline.transfer WHERE source = ANY ($1::uuid[])',

  books: `
    SELECT account.id FROM baseline.account
    LEFT JOIN (
      SELECT id, sum(amount) AS amount FROM (
        SELECT destination AS id, amount FROM baseline.transfer
        UNION ALL SELECT source, -amount FROM baseline.transfer
      ) AS side GROUP BY id
    ) AS moved USING (id)
    WHERE account.balance <> 1000000 + coalesce(moved.amount, 0) OR account.balance < 0`,
}
