/*
 * Baseline: the ancestor
 *
 * The design that this service descends from, written anew after its description: transfers are only ever inserted,
 * each at the next index of its source, and a trigger on every row checks the index and sums the balance up over the
 * whole history. Synchronous; who loses the race for an index gets an error, and its client may try again.
 */
import type { Baseline } from './baseline.ts'

export const rowTriggers: Baseline = {
  schema: `
    CREATE SCHEMA baseline;
    CREATE TABLE baseline.account (
      id          uuid        PRIMARY KEY
    );
    INSERT INTO baseline.account VALUES ('00000000-0000-0000-0000-000000000000');
    CREATE TABLE baseline.transfer (
      source      uuid        NOT NULL REFERENCES baseline.account,
      index       bigint      NOT NULL,
      destination uuid        NOT NULL REFERENCES baseline.account,
      amount      numeric     NOT NULL CHECK (amount > 0),
      recorded_at timestamptz NOT NULL DEFAULT now(),
      PRIMARY KEY (source, index),
      CHECK (source <> destination)
    );
    CREATE INDEX ON baseline.transfer (destination);

    CREATE FUNCTION baseline.balance(account uuid) RETURNS numeric LANGUAGE sql STABLE AS $$
      SELECT coalesce((SELECT sum(amount) FROM baseline.transfer WHERE destination = account), 0)
        - coalesce((SELECT sum(amount) FROM baseline.transfer WHERE source = account), 0)
    $$;

    CREATE FUNCTION baseline.check_transfer() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      IF NEW.index <> (SELECT coalesce(max(index) + 1, 0) FROM baseline.transfer WHERE source = NEW.source) THEN
        RAISE EXCEPTION 'not the next index' USING ERRCODE = 'unique_violation';
      END IF;
      IF NEW.source <> '00000000-0000-0000-0000-000000000000' AND baseline.balance(NEW.source) < NEW.amount THEN
        RAISE EXCEPTION 'insufficient funds' USING ERRCODE = 'check_violation';
      END IF;
      RETURN NEW;
    END $$;
    CREATE TRIGGER check_transfer BEFORE INSERT ON baseline.transfer
      FOR EACH ROW EXECUTE FUNCTION baseline.check_transfer();

    CREATE FUNCTION baseline.open(accounts uuid[]) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
      account uuid;
    BEGIN
      INSERT INTO baseline.account SELECT unnest(accounts);
      FOREACH account IN ARRAY accounts LOOP
        INSERT INTO baseline.transfer (source, index, destination, amount)
        SELECT '00000000-0000-0000-0000-000000000000', coalesce(max(index) + 1, 0), account, 1000000
        FROM baseline.transfer WHERE source = '00000000-0000-0000-0000-000000000000';
      END LOOP;
    END $$`,

  open: 'SELECT baseline.open($1::uuid[])',

  transfer: async (client, { source, destination, amount }) => {
    await client.query({
      name: 'transfer',
      text: `
        INSERT INTO baseline.transfer (source, index, destination, amount)
        SELECT $1, coalesce(max(index) + 1, 0), $2, $3 FROM baseline.transfer WHERE source = $1`,
      values: [source, destination, amount],
    })
    return { status: 201 }
  },

  // As if each account had paid each other one once: what the triggers would have let through, without their work. What
  // such a load leaves for later is done before anything is measured.
  grow: [
    `
    SET session_replication_role = replica;
    INSERT INTO baseline.transfer (source, index, destination, amount)
    SELECT one.id, row_number() OVER (PARTITION BY one.id) - 1, other.id, 1.25
    FROM baseline.account AS one JOIN baseline.account AS other ON one.id <> other.id
    WHERE '00000000-0000-0000-0000-000000000000' NOT IN (one.id, other.id);
    SET session_replication_role = origin`,
    'VACUUM ANALYZE baseline.transfer',
    'CHECKPOINT',
  ],

  count: 'SELECT count(*) AS decided FROM baseline.transfer WHERE source = ANY ($1::uuid[])',

  books: `
    SELECT id FROM baseline.account
    WHERE baseline.balance(id) < 0 AND id <> '00000000-0000-0000-0000-000000000000'
    UNION ALL
    SELECT source FROM (
      SELECT source, index, row_number() OVER (PARTITION BY source ORDER BY index) - 1 AS expected
      FROM baseline.transfer
    ) AS chain WHERE index <> expected`,
}
