-- The door
--
-- post_transfers decides a batch of transfers: the only way into the ledger. One call is one transaction, made of
-- plain statements one after the other, so each sees what was committed before it began.
--
-- It cannot deadlock, because no statement waits for another transaction: claims are tried, never awaited; there are
-- no row locks and no foreign keys; and two calls can only meet in a unique index if both hold the claim of the same
-- source. It cannot overdraw, because a decision based on `spent` at index n takes index n + 1: nothing was spent in
-- between, and credits can only have grown. It cannot decide twice, because posting and rejecting both insert the id.
--
-- Next: 0003_closing.sql, which keeps what the door reads short, and what else there is, by number.

-- Asked: four arrays of one length, a position each: id, source, destination, amount. Of one id and source the first
-- position counts, the others repeat its outcome.
--
-- Answers: `outcomes`, in the order asked: 'posted', the reason of a rejection, or NULL where another transaction
-- holds the source just now: nothing was decided, ask again. What was decided before answers its first outcome.
-- `long_tails`: sources whose received amount took more than long_tail() credits to add up, whose books want closing.
--
-- Errors: unique_violation if a writer that made no claim took the same index: all is undone, ask again.
--
-- Every access to a table is a probe of its index by construction (LATERAL ... LIMIT, scalar subqueries, no sequential
-- scans), because a plan chosen while the tables were small would be kept while they grow.

CREATE OR REPLACE FUNCTION ledger.post_transfers(
  ids uuid[], sources uuid[], destinations uuid[], amounts numeric[],
  OUT outcomes text[], OUT long_tails uuid[]
) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = ledger, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
AS $$
DECLARE
  claimed      uuid[];
  wanted       numeric[];    -- for each claimed source: the most that it may be asked to send here
  walk         bigint[];     -- positions of what may be decided here, in the order of their sources, then as asked
  decided      text[];       -- for each step of the walk: the outcome of an earlier call
  first        bigint[];     -- for each step: the first position with the same id
  destined     boolean[];    -- for each step: the destination exists
  indexes      bigint[]      := array_fill(NULL::bigint, ARRAY[cardinality(ids)]);
  spents       numeric[]     := array_fill(NULL::numeric, ARRAY[cardinality(ids)]);
  recorded_ats timestamptz[] := array_fill(NULL::timestamptz, ARRAY[cardinality(ids)]);
  chain        record;
  step         integer := 1;
  n            bigint;
BEGIN
  -- 1. Claim each source until the end of this transaction. A claim that is taken is skipped: waiting for it instead
  --    forms convoys (16 connections on 50 accounts: half the throughput). Two sources may share a hash: then one is
  --    skipped without need, and comes again.

  SELECT coalesce(array_agg(source), '{}'), array_agg(amount)
  INTO claimed, wanted
  FROM (
    SELECT request.source, sum(greatest(request.amount, 0)) AS amount
    FROM unnest(sources, amounts) AS request (source, amount)
    GROUP BY request.source ORDER BY request.source
  ) AS asked
  WHERE pg_try_advisory_xact_lock(uuid_hash_extended(source, 0));

  -- 2. What was decided before stands; of the rest, which repeat an id of this batch, and which destinations exist.
  --    After the claims: from here on nobody else decides for a claimed source.

  SELECT array_agg(asked.n), array_agg(asked.decided), array_agg(asked.first), array_agg(asked.destined)
  INTO walk, decided, first, destined
  FROM (
    SELECT request.n,
      min(request.n) OVER (PARTITION BY request.id, request.source) AS first,
      EXISTS (SELECT FROM account WHERE account.id = request.destination) AS destined,
      (
        SELECT coalesce(transfer.reason::text, 'posted')
        FROM transfer WHERE transfer.id = request.id AND transfer.source = request.source
      ) AS decided
    FROM unnest(ids, sources, destinations) WITH ORDINALITY AS request (id, source, destination, n)
    WHERE request.source IN (SELECT unnest(claimed))
    ORDER BY request.source, request.n
  ) AS asked;

  outcomes := array_fill(NULL::text, ARRAY[cardinality(ids)]);
  long_tails := '{}';

  -- 3. The state of each claimed source, one after the other. Of what it received, its last closing is often enough
  --    for all it is asked to send: the credits since are added up only if not (OFFSET 0 keeps the question outside of
  --    the sum). The moment is taken under the claim and is at least the one before, so time never runs backwards
  --    along a chain, not even when the clock does; and it is taken after the credits were read, so that at every past
  --    moment what was spent had been received.
  -- 4. And its requests, in the order asked. Each decision, posted or rejected, takes the next index: were rejections
  --    recorded outside the chain, two transactions could hold each other's repeated id and wait in a circle.

  FOR chain IN
    SELECT claim.source, known.overdraft, coalesce(funds.received, closed.received, 0) AS received, funds.tail,
      greatest(clock_timestamp(), last.recorded_at) AS moment,
      coalesce(last.index + 1, 0) AS next, coalesce(last.spent, 0) AS spent
    FROM unnest(claimed, wanted) AS claim (source, amount)
    LEFT JOIN LATERAL (
      SELECT overdraft FROM account WHERE account.id = claim.source LIMIT 1
    ) AS known ON true
    LEFT JOIN LATERAL (
      SELECT transfer.index, transfer.spent, transfer.recorded_at
      FROM transfer WHERE transfer.source = claim.source
      ORDER BY transfer.index DESC LIMIT 1
    ) AS last ON true
    LEFT JOIN LATERAL (
      SELECT closing.received
      FROM closing WHERE closing.account = claim.source
      ORDER BY closing.horizon DESC LIMIT 1
    ) AS closed ON true
    LEFT JOIN LATERAL (
      SELECT received.received, received.tail
      FROM received(claim.source)
      WHERE NOT known.overdraft AND coalesce(closed.received, 0) < coalesce(last.spent, 0) + claim.amount
      OFFSET 0
    ) AS funds ON true
  LOOP
    IF chain.tail > long_tail() THEN
      long_tails := long_tails || chain.source;
    END IF;

    WHILE sources[walk[step]] = chain.source LOOP
      n := walk[step];
      step := step + 1;

      IF decided[step - 1] IS NOT NULL THEN
        outcomes[n] := decided[step - 1];
        CONTINUE;
      ELSIF first[step - 1] < n THEN
        outcomes[n] := outcomes[first[step - 1]];
        CONTINUE;
      ELSIF chain.overdraft IS NULL THEN
        outcomes[n] := 'unknown_source';
      ELSIF NOT destined[step - 1] THEN
        outcomes[n] := 'unknown_destination';
      ELSIF NOT chain.overdraft AND chain.spent + amounts[n] > chain.received THEN
        outcomes[n] := 'insufficient_funds';
      ELSE
        outcomes[n] := 'posted';
        chain.spent := chain.spent + amounts[n];
      END IF;

      indexes[n] := chain.next;
      spents[n] := chain.spent;
      recorded_ats[n] := chain.moment;
      chain.next := chain.next + 1;
    END LOOP;
  END LOOP;

  -- 5. Record. The primary key is the referee: should another writer have taken an index after all, the whole call
  --    fails and nothing of it stays.

  INSERT INTO transfer (source, index, id, destination, amount, spent, reason, recorded_at)
  SELECT decided.source, decided.index, decided.id, decided.destination, decided.amount, decided.spent,
    nullif(decided.outcome, 'posted')::reason, decided.recorded_at
  FROM unnest(ids, sources, destinations, amounts, outcomes, indexes, spents, recorded_ats)
    AS decided (id, source, destination, amount, outcome, index, spent, recorded_at)
  WHERE decided.index IS NOT NULL;

  INSERT INTO credit (destination, source, index, amount, recorded_at)
  SELECT decided.destination, decided.source, decided.index, decided.amount, decided.recorded_at
  FROM unnest(sources, destinations, amounts, outcomes, indexes, recorded_ats)
    AS decided (source, destination, amount, outcome, index, recorded_at)
  WHERE decided.index IS NOT NULL AND decided.outcome = 'posted';
END $$;

REVOKE EXECUTE ON FUNCTION ledger.post_transfers(uuid[], uuid[], uuid[], numeric[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.post_transfers(uuid[], uuid[], uuid[], numeric[]) TO transfer_app;
