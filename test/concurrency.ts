/*
 * Many callers at once: whatever they ask in whatever order, the books end as if they had come one after the other.
 *
 * Several connections post random batches between few accounts, some asking for the same transfers as others, while two
 * more close the books and read all balances. Afterwards the audit re-derives everything, and each caller's answers are
 * held against what was recorded. The same race through doors with one safeguard taken out must be found out.
 */
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import pg from 'pg'
import { type Audit, audit } from '../src/db/audit.ts'
import { SERVICE_ACCOUNT, type Transfer } from '../src/transfer.ts'
import { balance, balanced, copyFunction, open, post, readBooks, request } from './support/books.ts'
import { parameters, until, useDatabase } from './support/harness.ts'

const CALLERS = 6
const BATCHES = 25
const BATCH = 30
const ACCOUNTS = 6

/** Where a race is run. */
type Track = { url: string; admin: pg.Pool; callers: pg.Pool }

async function prepare(t: ExecutionContext): Promise<Track> {
  const { url, connect } = await useDatabase(t)
  const admin = connect(2)
  // A door without claims deadlocks: then not for a second each time.
  await admin.query(`ALTER DATABASE ${new URL(url).pathname.slice(1)} SET deadlock_timeout = '10ms'`)
  return { url, admin, callers: connect(CALLERS) }
}

type Verdict = { asked: number; busy: number; conflicts: number; closed: number; readings: number; audit: Audit }

/** @param door a function of the same form as the ledger's; from a careless one nothing is expected. */
async function race(
  t: ExecutionContext,
  { url, admin, callers }: Track,
  door = 'ledger.post_transfers',
): Promise<Verdict> {
  const accounts: string[] = []
  while (accounts.length < ACCOUNTS) accounts.push(await open(admin, accounts.length < 4 ? '500' : undefined))
  accounts.push(await open(admin, undefined, { overdraft: true }))
  const shares = deal(t, accounts)
  const outcomes = new Map<string, string>()
  const verdict = { asked: 0, busy: 0, conflicts: 0, closed: 0, readings: 0 }
  let contradictions = 0
  let unbalanced = 0

  const call = async (batches: Transfer[][]) => {
    for (const batch of batches) {
      for (let left = batch; left.length > 0; ) {
        const answers = await post(callers, left, door).catch((error: unknown) => {
          // The referee: another writer took an index or an id first. Nothing was done, so ask again.
          if (!(error instanceof pg.DatabaseError && ['23505', '40P01'].includes(error.code ?? ''))) throw error
          verdict.conflicts += 1
          return left.map(() => null)
        })
        for (const [position, { id }] of left.entries()) {
          const answer = answers[position]
          if (!answer) continue
          if ((outcomes.get(id) ?? answer) !== answer) contradictions += 1
          outcomes.set(id, answer)
        }
        left = left.filter((_, position) => !answers[position])
        verdict.busy += left.length
      }
    }
  }

  let racing = true
  const whileRacing = async (work: () => Promise<void>) => {
    while (racing) await work()
  }
  const everybody = [...accounts, SERVICE_ACCOUNT]
  const helpers = [
    whileRacing(async () => {
      const { rows } = await admin.query('SELECT ledger.close_books($1) AS closed', [everybody])
      verdict.closed += rows[0].closed
    }),
    whileRacing(async () => {
      const { rows } = await admin.query(
        `SELECT sum(balance) <> 0 OR min(balance) FILTER (WHERE NOT overdraft) < 0 AS wrong
         FROM ledger.balances($1) JOIN ledger.account ON id = account`,
        [everybody],
      )
      if (rows[0].wrong) unbalanced += 1
      verdict.readings += 1
    }),
  ]
  try {
    await Promise.all(shares.map(call))
  } finally {
    racing = false
    await Promise.all(helpers)
  }

  const asked = new Set(shares.flat(2).map(({ id }) => id))
  const { rows: recorded } = await admin.query<{ id: string; outcome: string }>(
    `SELECT id, coalesce(reason::text, 'posted') AS outcome FROM ledger.transfer WHERE id = ANY ($1)`,
    [[...asked]],
  )
  // The balance of each account after each of its movements, in the order of time.
  const { rows: overdrawn } = await admin.query(`
    SELECT * FROM (
      SELECT account, at, sum(amount) OVER (PARTITION BY account ORDER BY at) AS balance
      FROM (
        SELECT destination AS account, recorded_at AS at, amount FROM ledger.credit
        UNION ALL
        SELECT source, recorded_at, -amount FROM ledger.transfer WHERE reason IS NULL
      ) AS movement
    ) AS history
    JOIN ledger.account ON id = account
    WHERE balance < 0 AND NOT overdraft`)
  const result = await audit(url)
  if (door !== 'ledger.careless') {
    t.is(contradictions, 0, 'whoever asks for a transfer gets the same answer')
    t.is(unbalanced, 0, 'at every moment all balances sum to 0, and none is below')
    t.deepEqual(overdrawn, [], 'nor was at any moment of the past')
    t.is(recorded.length, asked.size, 'each transfer is decided once')
    t.deepEqual(
      recorded.filter(({ id, outcome }) => outcomes.get(id) !== outcome),
      [],
      'as its callers were told',
    )
  }
  return { ...verdict, asked: asked.size, audit: result }
}

/** Each caller's batches. A quarter of the transfers are asked for by another caller, too. */
function deal(t: ExecutionContext, accounts: string[]): Transfer[][][] {
  const total = CALLERS * BATCHES * BATCH
  const { seed } = parameters(t, 1)
  const one = fc.record({
    source: fc.oneof(fc.constantFrom(0, 1), fc.nat(accounts.length - 1)),
    step: fc.integer({ min: 1, max: accounts.length - 1 }),
    amount: fc.integer({ min: 1, max: 20_000 }).map((cents) => (cents / 100).toFixed(2)),
    again: fc.nat({ max: 3 }),
    earlier: fc.nat(),
  })
  const transfers: Transfer[] = []
  for (const { source, step, amount, again, earlier } of fc.sample(one, { numRuns: total, seed })) {
    const repeated = again === 0 ? transfers[earlier % Math.max(1, transfers.length)] : undefined
    const [from, to] = [accounts[source], accounts[(source + step) % accounts.length]]
    transfers.push(repeated ?? request(from as string, to as string, amount))
  }
  return Array.from({ length: CALLERS }, (_, caller) =>
    Array.from({ length: BATCHES }, (_, n) => {
      // Interleaved, so that a transfer and its repetition are often asked for at the same time.
      const begin = n * BATCH * CALLERS
      return Array.from({ length: BATCH }, (_, k) => transfers[begin + k * CALLERS + caller] as Transfer)
    }),
  )
}

const failed = ({ checks }: Audit) => checks.filter(({ violations }) => violations > 0).map(({ name }) => name)

test.serial('six callers, a closer and a reader at once leave books that balance', async (t) => {
  const track = await prepare(t)
  const { audit, ...seen } = await race(t, track)
  t.deepEqual(failed(audit), [])
  t.log({ ...seen, posted: audit.posted, rejected: audit.rejected })
  t.is(seen.conflicts, 0, 'whoever holds the claim meets nobody')
  t.true(seen.busy > 0, 'sources were wanted by several callers at once')
  t.true(audit.posted > 500 && audit.rejected > 500)
})

const CLAIM = 'WHERE pg_try_advisory_xact_lock(uuid_hash_extended(source, 0))'
const DECIDED = 'transfer.id = request.id AND transfer.source = request.source'

/** Without unique keys an id may be there twice, which the door itself would stumble over. */
const CARELESS = [[CLAIM, ''] as const, [DECIDED, `${DECIDED} LIMIT 1`] as const]

test.serial('without claims, the primary key alone keeps the books right, at the price of conflicts', async (t) => {
  const track = await prepare(t)
  await copyFunction(track.admin, 'ledger.post_transfers', 'ledger.claimless', [[CLAIM, '']])
  const { audit, conflicts } = await race(t, track, 'ledger.claimless')
  t.deepEqual(failed(audit), [])
  t.true(conflicts > 0)
})

test.serial('without claims and unique keys, the same race leaves books that do not balance', async (t) => {
  const track = await prepare(t)
  await copyFunction(track.admin, 'ledger.post_transfers', 'ledger.careless', CARELESS)
  await track.admin.query(`
    ALTER TABLE ledger.transfer DROP CONSTRAINT transfer_pkey, DROP CONSTRAINT transfer_id_source_key;
    CREATE INDEX ON ledger.transfer (source, index);
    CREATE INDEX ON ledger.transfer (id)`)
  const found = await until(async () => {
    const { audit } = await race(t, track, 'ledger.careless')
    const found = failed(audit)
    return ['chains', 'ids', 'funds'].every((name) => found.includes(name)) && found
  })
  t.log(`found out by: ${found.join(', ')}`)
  t.pass()
})

test.serial('money is never spent twice by two callers at once, however they interleave', async (t) => {
  const database = await useDatabase(t)
  const [one, other] = [database.connect(), database.connect()]
  const [source, destination] = [await open(one, '10'), await open(one)]
  const [first, second] = [request(source, destination, '10'), request(source, destination, '10')]
  await one.query('BEGIN')
  t.deepEqual(await post(one, [first]), ['posted'])
  t.deepEqual(await post(other, [second]), [null])
  await one.query('COMMIT')
  t.deepEqual(await post(other, [second]), ['insufficient_funds'])
  t.is(await balance(one, source), '0')
  await balanced(t, database.url)

  // The negative control: the same with the safeguards taken out.
  await copyFunction(one, 'ledger.post_transfers', 'ledger.careless', CARELESS)
  await one.query('ALTER TABLE ledger.transfer DROP CONSTRAINT transfer_pkey, DROP CONSTRAINT transfer_id_source_key')
  const [poor, sink] = [await open(one, '10'), await open(one)]
  await one.query('BEGIN')
  t.deepEqual(await post(one, [request(poor, sink, '10')], 'ledger.careless'), ['posted'])
  t.deepEqual(await post(other, [request(poor, sink, '10')], 'ledger.careless'), ['posted'])
  await one.query('COMMIT')
  t.deepEqual(failed(await audit(database.url)), ['chains', 'double entry', 'funds', 'past', 'balances', 'sum'])
})

// A posting has taken its transaction id, one begun later is done already, and then the books are closed.
async function closeMeanwhile(slow: pg.Pool, quick: pg.Pool) {
  const [a, b, account] = [await open(quick, '10'), await open(quick, '10'), await open(quick, '1')]
  const close = async () => (await quick.query('SELECT ledger.close_books($1) AS closed', [[account]])).rows[0].closed
  const found: (string | undefined)[] = []
  await slow.query('BEGIN')
  await post(slow, [request(a, account, '10')])
  await post(quick, [request(b, account, '10')])
  await close()
  found.push(await balance(quick, account))
  await slow.query('COMMIT')
  found.push(await balance(quick, account))
  // A transaction of another test may hold back the horizon for a while.
  await until(close)
  found.push(await balance(quick, account))
  return found
}

test.serial('a closing made while a posting is under way leaves nothing out and counts nothing twice', async (t) => {
  const database = await useDatabase(t)
  t.deepEqual(await closeMeanwhile(database.connect(), database.connect()), ['11', '21', '21'])
  t.deepEqual(failed(await audit(database.url)), [])
})

const MISTAKES: Record<string, [name: string, right: string, wrong: string]> = {
  'at the newest transaction instead of the oldest': ['ledger.close_books', 'pg_snapshot_xmin(', 'pg_snapshot_xmax('],
  'and forgets the transaction at its horizon': ['ledger.received', 'credit.xid >=', 'credit.xid >'],
}

for (const [what, [name, right, wrong]] of Object.entries(MISTAKES)) {
  test.serial(`a ledger that closes ${what} is found out`, async (t) => {
    const database = await useDatabase(t)
    const [slow, quick] = [database.connect(), database.connect()]
    await copyFunction(quick, name, name, [[right, wrong]])
    const found = await until(async () => {
      const found = await closeMeanwhile(slow, quick)
      return found.join() !== '11,21,21' && found
    })
    t.log(`instead of 11, 21, 21: ${found.join(', ')}`)
    t.pass()
  })
}

test.serial('of two closings of the same books at once one is made, and neither waits', async (t) => {
  const database = await useDatabase(t)
  const [one, other] = [database.connect(), database.connect()]
  const account = await open(one, '10')
  // Until no transaction of another test is older than the funding.
  await until(async () => {
    await one.query('BEGIN')
    const { rows } = await one.query('SELECT ledger.close_books($1) AS closed', [[account]])
    if (rows[0].closed === 1) return true
    await one.query('ROLLBACK')
    return false
  })
  await other.query("SET statement_timeout = '60s'")
  const { rows } = await other.query('SELECT ledger.close_books($1) AS closed', [[account]])
  t.is(rows[0].closed, 0)
  await one.query('COMMIT')
  t.is((await readBooks(one)).closing?.length, 1)
  t.is(await balance(one, account), '10')
})

test.serial(
  'a posting into an account is not held up by the closing of its books, nor the other way round',
  async (t) => {
    const database = await useDatabase(t)
    const [one, other] = [database.connect(), database.connect()]
    const [account, second] = [await open(one, '10'), await open(one, '10')]
    await other.query("SET statement_timeout = '60s'")
    for (const [open, then] of [
      [
        () => one.query('SELECT ledger.close_books($1)', [[account]]),
        () => post(other, [request(second, account, '1')]),
      ],
      [
        () => post(one, [request(second, account, '1')]),
        () => other.query('SELECT ledger.close_books($1)', [[account]]),
      ],
      [
        () => one.query('SELECT ledger.close_books($1)', [[account]]),
        () => post(other, [request(account, second, '1')]),
      ],
    ]) {
      await one.query('BEGIN')
      await open?.()
      await t.notThrowsAsync(async () => await then?.())
      await one.query('COMMIT')
    }
    t.is(await balance(one, account), '11')
    await balanced(t, database.url)
  },
)
