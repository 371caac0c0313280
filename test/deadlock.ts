/*
 * Deadlocks: there are none, because nobody ever waits for anybody.
 *
 * Eight connections move money to and fro between four accounts, each batch in an order of its own, as fast as they
 * can, with Postgres looking for deadlocks after 10 ms. Three witnesses watch: the errors the callers get; Postgres' own
 * count of deadlocks; and who was ever seen waiting for a lock that a transaction holds, both by looking and by what
 * Postgres itself reports of every wait over 10 ms. The same storm on doors that wait shows that the witnesses see.
 */
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import pg from 'pg'
import type { Transfer } from '../src/transfer.ts'
import { balanced, copyFunction, open, post, request } from './support/books.ts'
import { parameters, until, useDatabase } from './support/harness.ts'

const CONNECTIONS = 8
const ACCOUNTS = 4
const BATCHES = 150
const BATCH = 12

type Witness = {
  calls: number
  /** Errors of callers, by SQLSTATE. */
  errors: Record<string, number>
  /** As Postgres counts them. */
  deadlocks: number
  /** What sessions were seen waiting for, and what Postgres told them they had waited for. */
  waits: Record<string, number>
  reports: number
}

type Storm = {
  url: string
  admin: pg.Pool
  /** One call, of however many transfers it takes. */
  call: (client: pg.Client, batch: Transfer[]) => Promise<void>
  /** Blow until this is so: a control goes on until it is caught. */
  enough?: (witness: Witness) => boolean
}

async function storm(t: ExecutionContext, { url, admin, call, enough }: Storm): Promise<Witness> {
  const accounts: string[] = []
  while (accounts.length < ACCOUNTS) accounts.push(await open(admin, '100'))
  const before = await countDeadlocks(admin)
  const witness: Witness = { calls: 0, errors: {}, deadlocks: 0, waits: {}, reports: 0 }
  const { seed } = parameters(t, 1)

  const caller = async (_: unknown, n: number) => {
    const client = await connectCaller(url, witness)
    const batches = fc.sample(fc.array(pair, { minLength: 2, maxLength: BATCH }), { numRuns: BATCHES, seed: seed + n })
    try {
      for (let round = 0; round === 0 || (enough && !enough(witness)); round++) {
        for (const batch of batches) {
          const transfers = batch.map(([from, step]) =>
            request(accounts[from] as string, accounts[(from + step) % ACCOUNTS] as string, '0.01'),
          )
          await call(client, transfers).catch((error: unknown) => {
            if (!(error instanceof pg.DatabaseError)) throw error
            witness.errors[error.code ?? ''] = (witness.errors[error.code ?? ''] ?? 0) + 1
          })
          witness.calls += 1
        }
      }
    } finally {
      await client.end()
    }
  }

  let blowing = true
  const looking = (async () => {
    while (blowing) {
      for (const what of await lookForWaits(admin)) witness.waits[what] = (witness.waits[what] ?? 0) + 1
    }
  })()
  try {
    await Promise.all(Array.from({ length: CONNECTIONS }, caller))
  } finally {
    blowing = false
    await looking
  }
  witness.deadlocks = (await countDeadlocks(admin)) - before
  t.log(witness)
  return witness
}

const pair = fc.tuple(fc.nat(ACCOUNTS - 1), fc.integer({ min: 1, max: ACCOUNTS - 1 }))

/** Postgres reports to the session itself what it waited for, if that took longer than deadlock_timeout. */
async function connectCaller(url: string, witness: Witness): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url, application_name: 'caller' })
  await client.connect()
  client.on('notice', ({ message }) => {
    if (message && /still waiting for|acquired/.test(message) && !/extension of relation/.test(message)) {
      witness.reports += 1
    }
  })
  await client.query("SET deadlock_timeout = '10ms'; SET log_lock_waits = on; SET client_min_messages = log")
  return client
}

/** Growing a file takes a lock of an instant, which no transaction keeps. Everything else counts. */
async function lookForWaits(admin: pg.Pool): Promise<string[]> {
  const { rows } = await admin.query<{ what: string }>(`
    SELECT wait_event AS what FROM pg_stat_activity
    WHERE application_name = 'caller' AND datname = current_database()
      AND wait_event_type = 'Lock' AND wait_event <> 'extend'
    UNION ALL
    SELECT locktype FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE application_name = 'caller' AND datname = current_database() AND NOT granted AND locktype <> 'extend'`)
  return rows.map(({ what }) => what)
}

/** Sessions tell their count when they end: so not before all callers are gone. */
async function countDeadlocks(admin: pg.Pool): Promise<number> {
  return await until(async () => {
    const { rows } = await admin.query<{ callers: number; deadlocks: number }>(`
      SELECT deadlocks, (
        SELECT count(*) FROM pg_stat_activity WHERE application_name = 'caller' AND datname = current_database()
      ) AS callers
      FROM pg_stat_database WHERE datname = current_database()`)
    const [found] = rows
    return found?.callers === 0 && { deadlocks: found.deadlocks }
  }).then(({ deadlocks }) => deadlocks)
}

const seen = (counts: Record<string, number>, ...names: string[]) => names.some((name) => (counts[name] ?? 0) > 0)

test.serial('opposing transfers between few accounts never deadlock, and never wait', async (t) => {
  const { url, connect } = await useDatabase(t)
  const witness = await storm(t, {
    url,
    admin: connect(),
    call: async (client, batch) => void (await post(client, batch)),
  })
  t.deepEqual({ ...witness, calls: 0 }, { calls: 0, errors: {}, deadlocks: 0, waits: {}, reports: 0 })
  t.is(witness.calls, CONNECTIONS * BATCHES)
  await balanced(t, url)
})

test.serial('nor when each caller insists until all of its batch is decided', async (t) => {
  const { url, connect } = await useDatabase(t)
  const admin = connect()
  const witness = await storm(t, {
    url,
    admin,
    call: async (client, batch) => {
      for (let left = batch; left.length > 0; ) {
        const outcomes = await post(client, left)
        left = left.filter((_, position) => outcomes[position] === null)
      }
    },
  })
  t.deepEqual({ ...witness, calls: 0 }, { calls: 0, errors: {}, deadlocks: 0, waits: {}, reports: 0 })
  await balanced(t, url)
})

test.serial('nor while the books are being closed and accounts opened', async (t) => {
  const { url, connect } = await useDatabase(t)
  const admin = connect()
  const witness = await storm(t, {
    url,
    admin,
    call: async (client, batch) => {
      const accounts = batch.map(({ source }) => source)
      await client.query('BEGIN')
      await post(client, batch)
      await client.query('SELECT ledger.close_books($1)', [accounts])
      await client.query('SELECT ledger.open_account($1)', [batch[0]?.id])
      await client.query('COMMIT')
    },
  })
  t.deepEqual({ ...witness, calls: 0 }, { calls: 0, errors: {}, deadlocks: 0, waits: {}, reports: 0 })
  await balanced(t, url)
})

// Negative controls: doors that wait, in three ways.

test.serial('row locks in the order asked do deadlock, and every witness sees it', async (t) => {
  const { url, connect } = await useDatabase(t)
  const admin = connect()
  await admin.query(`
    CREATE FUNCTION ledger.lock_rows(sources uuid[], destinations uuid[]) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
      FOR n IN 1 .. cardinality(sources) LOOP
        PERFORM FROM ledger.account WHERE id = sources[n] FOR UPDATE;
        PERFORM FROM ledger.account WHERE id = destinations[n] FOR UPDATE;
      END LOOP;
    END $$`)
  const witness = await storm(t, {
    url,
    admin,
    call: async (client, batch) => {
      const [sources, destinations] = [batch.map(({ source }) => source), batch.map(({ destination }) => destination)]
      await client.query('SELECT ledger.lock_rows($1, $2)', [sources, destinations])
    },
    enough: ({ errors, waits, reports }) => seen(errors, '40P01') && seen(waits, 'transactionid') && reports > 0,
  })
  t.true(witness.deadlocks > 0)
  t.is(witness.errors['40P01'], witness.deadlocks)
})

test.serial('without claims, callers are seen to wait for each other in the primary key', async (t) => {
  const { url, connect } = await useDatabase(t)
  const admin = connect()
  await copyFunction(admin, 'ledger.post_transfers', 'ledger.claimless', [
    ['WHERE pg_try_advisory_xact_lock(uuid_hash_extended(source, 0))', ''],
  ])
  const witness = await storm(t, {
    url,
    admin,
    call: async (client, batch) => void (await post(client, batch, 'ledger.claimless')),
    enough: ({ waits }) => seen(waits, 'transactionid'),
  })
  t.true(seen(witness.waits, 'transactionid'))
  await balanced(t, url)
})

test.serial('claims that are awaited instead of tried are seen to be awaited', async (t) => {
  const { url, connect } = await useDatabase(t)
  const admin = connect()
  await copyFunction(admin, 'ledger.post_transfers', 'ledger.patient', [
    [
      'WHERE pg_try_advisory_xact_lock(uuid_hash_extended(source, 0))',
      'WHERE pg_advisory_xact_lock(uuid_hash_extended(source, 0)) IS NOT NULL',
    ],
  ])
  const witness = await storm(t, {
    url,
    admin,
    call: async (client, batch) => void (await post(client, batch, 'ledger.patient')),
    enough: ({ waits }) => seen(waits, 'advisory'),
  })
  t.true(seen(witness.waits, 'advisory'))
  await balanced(t, url)
})
