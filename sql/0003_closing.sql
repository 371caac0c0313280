-- Closings and balances
--
-- Received = the latest closing + the credits recorded after it. A closing's horizon is the oldest transaction still
-- under way when the sum is taken: every transaction below it has ended, so the sum below it can never change. That is
-- exact, needs no lock and no grace period.
--
-- Next: 0004_roles.sql.

-- How many credits since the last closing make a tail long. Of 1,000 accounts under steady load, 32 decided a fifth more
-- than 100 (every credit of a tail is a row to visit), and 16 no more than 32 (every closing is a row to write).
-- Measured again since: see 0006_long_tail.sql.

CREATE FUNCTION ledger.long_tail() RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 32';

-- What an account has received by now, and over how many credits since its last closing that had to be added up. Plain
-- enough for Postgres to inline it, so the door and the balances share this one definition at no cost.

CREATE FUNCTION ledger.received(account uuid) RETURNS TABLE (received numeric, tail bigint)
LANGUAGE sql STABLE AS $$
  SELECT coalesce(last.received, 0) + coalesce(since.amount, 0), since.credits
  FROM (VALUES (1)) AS one
  LEFT JOIN LATERAL (
    SELECT closing.horizon, closing.received
    FROM ledger.closing WHERE closing.account = received.account
    ORDER BY closing.horizon DESC LIMIT 1
  ) AS last ON true
  CROSS JOIN LATERAL (
    SELECT sum(credit.amount) AS amount, count(*) AS credits
    FROM ledger.credit
    WHERE credit.destination = received.account AND credit.xid >= coalesce(last.horizon, '0')
  ) AS since
$$;

-- What an account has spent by now.

CREATE FUNCTION ledger.spent(account uuid) RETURNS TABLE (spent numeric)
LANGUAGE sql STABLE AS $$
  SELECT coalesce((
    SELECT transfer.spent FROM ledger.transfer WHERE transfer.source = spent.account
    ORDER BY transfer.index DESC LIMIT 1
  ), 0)
$$;

-- The balances of open accounts, each from one snapshot. An account that was never opened has no row.

CREATE FUNCTION ledger.balances(accounts uuid[])
RETURNS TABLE (account uuid, balance numeric, tail bigint)
LANGUAGE sql STABLE
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
AS $$
  SELECT asked.account, credits.received - debits.spent, credits.tail
  FROM unnest(accounts) AS asked (account)
  CROSS JOIN LATERAL (SELECT FROM ledger.account WHERE account.id = asked.account LIMIT 1) AS known
  CROSS JOIN LATERAL ledger.received(asked.account) AS credits
  CROSS JOIN LATERAL ledger.spent(asked.account) AS debits
$$;

-- The balance of an account at a past moment: what had been recorded by then. NULL for an account opened later or
-- never. Time never runs backwards along a chain and a chain has no gaps, so the last debit before the moment is found
-- by halving. Of the credits, those below the last closing made before the moment are summed already.

CREATE FUNCTION ledger.balance_at(account uuid, moment timestamptz) RETURNS numeric
LANGUAGE plpgsql STABLE
SET search_path = ledger, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
AS $$
#variable_conflict use_column
DECLARE
  low    bigint  := 0; -- all debits below this index were recorded by the moment
  high   bigint;       -- no debit at or above this one was
  middle bigint;
  debits numeric := 0;
BEGIN
  IF NOT EXISTS (SELECT FROM account a WHERE a.id = balance_at.account AND a.created_at <= moment) THEN
    RETURN NULL;
  END IF;

  high := coalesce(
    (SELECT t.index + 1 FROM transfer t WHERE t.source = balance_at.account ORDER BY t.index DESC LIMIT 1), 0);
  WHILE low < high LOOP
    middle := (low + high) / 2;
    IF (SELECT t.recorded_at <= moment FROM transfer t WHERE t.source = balance_at.account AND t.index = middle) THEN
      low := middle + 1;
    ELSE
      high := middle;
    END IF;
  END LOOP;
  IF low > 0 THEN
    debits := (SELECT t.spent FROM transfer t WHERE t.source = balance_at.account AND t.index = low - 1);
  END IF;

  RETURN (
    SELECT coalesce(last.received, 0) + coalesce((
      SELECT sum(c.amount) FROM credit c
      WHERE c.destination = balance_at.account AND c.xid >= coalesce(last.horizon, '0') AND c.recorded_at <= moment
    ), 0) - debits
    FROM (VALUES (1)) AS one
    LEFT JOIN LATERAL (
      SELECT k.horizon, k.received FROM closing k
      WHERE k.account = balance_at.account AND k.created_at <= moment
      ORDER BY k.horizon DESC LIMIT 1
    ) AS last ON true
  );
END $$;

-- Closes the books of some accounts: stores what each has received below the current horizon. Answers how many were
-- closed; an account with nothing new below the horizon is left alone, and so is one that another transaction is
-- closing (its claim is tried, never awaited).

CREATE FUNCTION ledger.close_books(accounts uuid[]) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = ledger, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
AS $$
DECLARE
  closed bigint;
BEGIN
  INSERT INTO closing (account, horizon, received)
  SELECT asked.account, now.horizon, coalesce(last.received, 0) + since.amount
  FROM (SELECT pg_snapshot_xmin(pg_current_snapshot()) AS horizon) AS now
  CROSS JOIN (SELECT DISTINCT a AS account FROM unnest(accounts) AS a OFFSET 0) AS asked
  LEFT JOIN LATERAL (
    SELECT k.horizon, k.received FROM closing k WHERE k.account = asked.account ORDER BY k.horizon DESC LIMIT 1
  ) AS last ON true
  CROSS JOIN LATERAL (
    SELECT sum(c.amount) AS amount FROM credit c
    WHERE c.destination = asked.account AND c.xid >= coalesce(last.horizon, '0') AND c.xid < now.horizon
  ) AS since
  WHERE since.amount IS NOT NULL
    -- The second of two closings of one account would wait for the first in the primary key.
    AND pg_try_advisory_xact_lock(uuid_hash_extended(asked.account, 1))
  ON CONFLICT (account, horizon) DO NOTHING;
  GET DIAGNOSTICS closed = ROW_COUNT;
  RETURN closed;
END $$;

-- Closes the books of whoever has a long tail among the next 1,000 accounts after the given one. Answers the last of
-- them, to go on from there, or NULL at the end. For accounts that nobody reads or spends from, whose tail nobody else
-- would find.

CREATE FUNCTION ledger.sweep_books(INOUT after uuid) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = ledger, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
AS $$
DECLARE
  page uuid[];
BEGIN
  page := ARRAY(SELECT id FROM account WHERE id > after ORDER BY id LIMIT 1000);
  PERFORM close_books(ARRAY(
    SELECT id FROM unnest(page) AS id CROSS JOIN LATERAL received(id) AS credits WHERE credits.tail > long_tail()
  ));
  after := page[1000];
END $$;

-- Transaction ids mean nothing in another cluster. After a dump and restore, closings made in the old one would hide
-- credits written in the new one. So the ledger remembers where its closings were made, and the service refuses to
-- start anywhere else until they are rebuilt.

CREATE TABLE ledger.cluster (
  system_identifier bigint      NOT NULL,
  recorded_at       timestamptz NOT NULL DEFAULT clock_timestamp()
);

INSERT INTO ledger.cluster SELECT system_identifier FROM pg_control_system();

CREATE FUNCTION ledger.closings_are_at_home() RETURNS boolean LANGUAGE sql AS $$
  SELECT EXISTS (SELECT FROM ledger.cluster JOIN pg_control_system() USING (system_identifier))
$$;

-- Drops all closings and makes this cluster their home; sweep_books makes new ones. For the owner of the ledger, while
-- the service is stopped. In another cluster all credits so far get the oldest transaction id there is: with those they
-- brought along they would not fall below a horizon here for a long time, or be taken for newer than what comes next.
-- Nothing about the money changes, and the trigger is off for just this.

CREATE FUNCTION ledger.drop_closings() RETURNS void LANGUAGE plpgsql
SET search_path = ledger, pg_temp
AS $$
BEGIN
  IF NOT closings_are_at_home() THEN
    ALTER TABLE credit DISABLE TRIGGER refuse_change;
    UPDATE credit SET xid = '3';
    ALTER TABLE credit ENABLE ALWAYS TRIGGER refuse_change;
    DELETE FROM cluster;
    INSERT INTO cluster SELECT system_identifier FROM pg_control_system();
  END IF;
  DELETE FROM closing;
END $$;
