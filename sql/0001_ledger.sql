-- The ledger
--
-- Nothing is ever updated: the system is a growing series of transfers between accounts, and every balance, now or at
-- any past moment, is derived from that series. Each transfer takes the next index in its source account's own chain,
-- so one account's spending is strictly ordered while different accounts never meet.
--
-- Four tables, each insert-only. There are no foreign keys: one would lock the account's row on every transfer, and an
-- account, once open, is never deleted, so an existence check that held once holds for ever.
--
-- Next: 0007_post_transfers.sql, the only door.

CREATE SCHEMA IF NOT EXISTS ledger;

-- An account. Only the service account, from which all money enters, goes below zero, unless an operator opens one so.
-- `opening` is the balance its first request asked for: the funding transfer follows through the queue, and a request
-- repeated after an outage can be told from one for somebody else's account.

CREATE TABLE ledger.account (
  id          uuid        PRIMARY KEY,
  overdraft   boolean     NOT NULL DEFAULT false,
  opening     numeric,
  created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  CHECK (opening > 0 AND opening < 1e20 AND scale(opening) <= 8)
);

-- The service account: all balances sum to zero because every one began with a transfer from here.

INSERT INTO ledger.account (id, overdraft) VALUES ('00000000-0000-0000-0000-000000000000', true);

-- Why the bank said no, in order of precedence: the first that applies is the one recorded.

CREATE TYPE ledger.reason AS ENUM ('unknown_source', 'unknown_destination', 'insufficient_funds');

-- The truth: every decision, posted (no reason) or rejected, at its index in the chain of its source. `spent` is all
-- that the source has sent up to and including this row, so "what has it sent" is one probe of the primary key. An id
-- belongs to one source (it is derived from it, or drawn at random): that is why uniqueness of (id, source) is
-- uniqueness of the id, and why the tables can be distributed by source. `amount` keeps the digits it was sent with;
-- its bounds exclude NaN and the infinities, which Postgres sorts above every number.

CREATE TABLE ledger.transfer (
  source      uuid        NOT NULL,
  index       bigint      NOT NULL,
  id          uuid        NOT NULL,
  destination uuid        NOT NULL,
  amount      numeric     NOT NULL,
  spent       numeric     NOT NULL,
  reason      ledger.reason,
  recorded_at timestamptz NOT NULL,
  PRIMARY KEY (source, index),
  UNIQUE (id, source),
  CHECK (index >= 0),
  CHECK (amount > 0 AND amount < 1e20 AND scale(amount) <= 8),
  CHECK (source <> destination)
);

-- The other side of each posted transfer, in the destination's book. `xid` is the transaction that wrote it: closings
-- need to know which credits can no longer be joined by older ones. The index carries the amount, so a sum of the
-- newest credits reads nothing but the index.

CREATE TABLE ledger.credit (
  destination uuid        NOT NULL,
  source      uuid        NOT NULL,
  index       bigint      NOT NULL,
  amount      numeric     NOT NULL,
  xid         xid8        NOT NULL DEFAULT pg_current_xact_id(),
  recorded_at timestamptz NOT NULL
);

CREATE INDEX credit_destination_xid ON ledger.credit (destination, xid) INCLUDE (amount);

-- A closing of the books: what an account had received by all transactions below `horizon`, every one of which had
-- ended when the sum was taken. Derived, so it may be dropped and rebuilt at any time; see 0003_closing.sql.

CREATE TABLE ledger.closing (
  account     uuid        NOT NULL,
  horizon     xid8        NOT NULL,
  received    numeric     NOT NULL,
  created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (account, horizon)
);

-- History cannot be changed, whoever asks. The triggers fire per statement, so inserts pay nothing, and ALWAYS, so a
-- replication role does not slip past them. Closings may be deleted (they are derived) but not altered.

CREATE FUNCTION ledger.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% of ledger.% refused: the ledger only grows', TG_OP, TG_TABLE_NAME
    USING ERRCODE = 'restrict_violation', HINT = 'Undo a transfer with a transfer in the other direction.';
END $$;

CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.account
  FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.transfer
  FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.credit
  FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER refuse_change BEFORE UPDATE ON ledger.closing
  FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();

ALTER TABLE ledger.account  ENABLE ALWAYS TRIGGER refuse_change;
ALTER TABLE ledger.transfer ENABLE ALWAYS TRIGGER refuse_change;
ALTER TABLE ledger.credit   ENABLE ALWAYS TRIGGER refuse_change;
ALTER TABLE ledger.closing  ENABLE ALWAYS TRIGGER refuse_change;
