/*
 * The past: what an account had at any moment, and the statement of how it came to it, line by line.
 */
import { randomUUID } from 'node:crypto'
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import type pg from 'pg'
import type { DatabasePool } from 'slonik'
import { readBalanceAt } from '../src/db/account.ts'
import { openPool } from '../src/db/pool.ts'
import { type Line, readStatement, type StatementCursor } from '../src/db/transfer.ts'
import { SERVICE_ACCOUNT, type Transfer } from '../src/transfer.ts'
import { balance, balances, copyFunction, open, post, postAll, request } from './support/books.ts'
import { captureLog, parameters, until, useDatabase } from './support/harness.ts'

type Books = { url: string; db: pg.Pool; pool: DatabasePool; connect: (max?: number) => pg.Pool }

async function useBooks(t: ExecutionContext): Promise<Books> {
  const { url, connect } = await useDatabase(t)
  const pool = await openPool({ databaseUrl: url, connections: 2, timeout_ms: 10_000, log: captureLog([]) })
  t.teardown(() => pool.end())
  return { url, db: connect(), pool, connect }
}

/** RFC 3339, to the microsecond, as the database's clock has it. */
async function now(db: pg.Pool): Promise<string> {
  const { rows } = await db.query<{ at: string }>(
    `SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS at`,
  )
  return rows[0]?.at ?? ''
}

test.serial('the balance at a moment is what had been recorded by then', async (t) => {
  const { db, pool } = await useBooks(t)
  const [account, other] = [await open(db), await open(db)]
  const moments = [await now(db)]
  const steps: Transfer[][] = [
    [request(SERVICE_ACCOUNT, account, '10')],
    [request(account, other, '2.5'), request(account, other, '0.5')],
    [request(account, other, '100')],
    [request(other, account, '3')],
    [request(account, other, '10')],
  ]
  for (const step of steps) {
    await post(db, step)
    moments.push(await now(db))
  }
  const found: unknown[] = []
  for (const at of moments) found.push([await readBalanceAt(pool, account, at), await readBalanceAt(pool, other, at)])
  t.deepEqual(found, [
    ['0', '0'],
    ['10', '0'],
    ['7.0', '3.0'],
    ['7.0', '3.0'],
    ['10.0', '0.0'],
    ['0.0', '10.0'],
  ])
})

test.serial('a moment to the microsecond falls on the right side of a transfer', async (t) => {
  const { db, pool } = await useBooks(t)
  const [source, destination] = [await open(db, '10'), await open(db)]
  await post(db, [request(source, destination, '10')])
  const { rows } = await db.query<{ just_before: string; at: string }>(
    `SELECT to_char(m AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS at,
       to_char(m AT TIME ZONE 'UTC' - interval '1 microsecond', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS just_before
     FROM (SELECT recorded_at AS m FROM ledger.transfer WHERE source = $1) AS transfer`,
    [source],
  )
  const { just_before = '', at = '' } = rows[0] ?? {}
  t.deepEqual(
    [await readBalanceAt(pool, source, just_before), await readBalanceAt(pool, destination, just_before)],
    ['10', '0'],
  )
  t.deepEqual([await readBalanceAt(pool, source, at), await readBalanceAt(pool, destination, at)], ['0', '10'])
})

test.serial('before it was opened an account has no balance, not even zero', async (t) => {
  const { db, pool } = await useBooks(t)
  const before = await now(db)
  const account = await open(db)
  const after = await now(db)
  t.is(await readBalanceAt(pool, account, before), null)
  t.is(await readBalanceAt(pool, account, after), '0')
  t.is(await readBalanceAt(pool, randomUUID(), after), null)
})

test.serial('the same moment is answered alike before and after the books are closed', async (t) => {
  const { db, pool } = await useBooks(t)
  const [a, b] = [await open(db, '100'), await open(db, '100')]
  const moments: string[] = []
  for (let n = 0; n < 12; n++) {
    await post(db, [n % 3 === 0 ? request(b, a, '1') : request(a, b, '2')])
    moments.push(await now(db))
  }
  const read = () => Promise.all(moments.flatMap((at) => [readBalanceAt(pool, a, at), readBalanceAt(pool, b, at)]))
  const before = await read()
  await until(async () => (await db.query('SELECT ledger.close_books($1) AS closed', [[a, b]])).rows[0].closed === 2)
  t.deepEqual(await read(), before)
  await post(db, [request(a, b, '50')])
  t.deepEqual(await read(), before)
})

test.serial(
  'at any moment, during and after traffic from all sides, the balances sum to zero, and none is below',
  async (t) => {
    const { db, connect } = await useBooks(t)
    const accounts = [await open(db, '50'), await open(db, '50'), await open(db, '50'), await open(db)]
    const traffic = connect(4)
    const moments: string[] = []
    const { seed } = parameters(t, 1)
    const pair = fc.tuple(fc.nat(3), fc.integer({ min: 1, max: 3 }), fc.integer({ min: 1, max: 20 }))
    const callers = Array.from({ length: 4 }, async (_, n) => {
      for (const batch of fc.sample(fc.array(pair, { minLength: 1, maxLength: 6 }), { numRuns: 20, seed: seed + n })) {
        await postAll(
          traffic,
          batch.map(([from, step, amount]) =>
            request(accounts[from] as string, accounts[(from + step) % 4] as string, String(amount)),
          ),
        )
      }
    })
    let running = true
    const closing = (async () => {
      while (running) {
        moments.push(await now(db))
        await db.query('SELECT ledger.close_books($1)', [accounts])
      }
    })()
    await Promise.all(callers)
    running = false
    await closing
    moments.push(await now(db))

    const { rows } = await db.query<{ sum: string; lowest: string }>(
      `SELECT sum(balance), min(balance) FILTER (WHERE account <> $3) AS lowest
     FROM unnest($1::timestamptz[]) AS moment
     CROSS JOIN unnest($2::uuid[]) AS account
     CROSS JOIN ledger.balance_at(account, moment) AS balance
     GROUP BY moment`,
      [moments, [...accounts, SERVICE_ACCOUNT], SERVICE_ACCOUNT],
    )
    t.true(rows.length > 5)
    t.deepEqual(
      rows.filter(({ sum, lowest }) => Number(sum) !== 0 || Number(lowest) < 0),
      [],
    )
    const { rows: last } = await db.query(
      'SELECT array(SELECT ledger.balance_at(a, clock_timestamp())::text FROM unnest($1::uuid[]) WITH ORDINALITY AS x (a, n) ORDER BY n) AS balances',
      [accounts],
    )
    t.deepEqual(last[0].balances, await balances(db, accounts))
  },
)

/** Money arrives after the transaction that spends it has begun. @returns the lowest balance there has ever been. */
async function spendWhatCameLater(early: pg.Pool, db: pg.Pool, door: string): Promise<string> {
  const [account, other] = [await open(db), await open(db)]
  await early.query('BEGIN')
  await early.query('SELECT FROM ledger.account')
  await post(db, [request(SERVICE_ACCOUNT, account, '10')])
  await post(early, [request(account, other, '10')], door)
  await early.query('COMMIT')
  const { rows } = await db.query<{ lowest: string }>(
    `SELECT min(ledger.balance_at($1, recorded_at)) AS lowest FROM ledger.transfer WHERE $1 IN (source, destination)`,
    [account],
  )
  return rows[0]?.lowest ?? ''
}

test.serial('what an account spends is recorded after what it spends it from, whoever began first', async (t) => {
  const { db, connect } = await useBooks(t)
  t.is(await spendWhatCameLater(connect(), db, 'ledger.post_transfers'), '0')

  // The negative control: the moment at which the transaction began.
  await copyFunction(db, 'ledger.post_transfers', 'ledger.early', [['greatest(clock_timestamp(),', 'greatest(now(),']])
  t.is(await spendWhatCameLater(connect(), db, 'ledger.early'), '-10')
})

// Statements.

async function readPages(pool: DatabasePool, account: string, limit: number, between?: () => Promise<void>) {
  const pages: Line[][] = []
  for (let cursor: StatementCursor | undefined | null; cursor !== null; ) {
    const page: { lines: Line[]; next: StatementCursor | null } = await readStatement(pool, account, limit, cursor)
    pages.push(page.lines)
    cursor = page.next
    await between?.()
  }
  return pages
}

/** Transfers to and from one account: in batches and alone, posted and rejected, with itself as the other side of none. */
async function makeHistory(t: ExecutionContext, { db }: Books) {
  const [account, friend, stranger] = [await open(db, '20'), await open(db, '1000'), randomUUID()]
  const { seed } = parameters(t, 1)
  const kind = fc.constantFrom('sent', 'sent', 'received', 'received', 'lost')
  const amount = fc.integer({ min: 1, max: 30 })
  const decided: Transfer[] = []
  for (const batch of fc.sample(fc.array(fc.tuple(kind, amount), { minLength: 1, maxLength: 5 }), {
    numRuns: 20,
    seed,
  })) {
    const transfers = batch.map(([kind, amount]) => {
      if (kind === 'received') return request(friend, account, `${amount}.0`)
      return request(account, kind === 'lost' ? stranger : friend, `${amount}`)
    })
    await post(db, transfers)
    decided.push(...transfers)
  }
  return { account, friend, stranger, decided }
}

test.serial('a statement has each transfer of the account once, as that account sees it', async (t) => {
  const books = await useBooks(t)
  const { account, friend, stranger, decided } = await makeHistory(t, books)
  const { lines, next } = await readStatement(books.pool, account, 1000)
  t.is(next, null)
  t.is(lines.length, decided.length + 1, 'and its funding')
  t.is(new Set(lines.map(({ id }) => id)).size, lines.length)

  const { rows } = await books.db.query<{ id: string; index: number; reason: string | null; recorded_at: string }>(
    `SELECT id, index, reason, to_char(recorded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US') AS recorded_at
     FROM ledger.transfer`,
  )
  const recorded = new Map(rows.map((row) => [row.id, row]))
  const found = new Map(lines.map((line) => [line.id, line]))
  for (const { id, source, destination, amount } of decided) {
    const { index = -1, reason = null, recorded_at = '' } = recorded.get(id) ?? {}
    const line = found.get(id)
    t.like(line, {
      id,
      direction: source === account ? 'sent' : 'received',
      account: source === account ? destination : source,
      amount,
      index,
      status: reason === null ? 'posted' : 'rejected',
      ...(reason === null ? {} : { reason }),
    } as Line)
    // Postgres writes no zeros at the end of a fraction.
    t.is(line?.recorded_at, `${recorded_at.replace(/\.?0+$/, '')}Z`)
  }
  const seen = (property: keyof Line) => [...new Set(lines.map((line) => line[property]))].sort()
  t.deepEqual(seen('status'), ['posted', 'rejected'])
  t.deepEqual(seen('account'), [friend, stranger, SERVICE_ACCOUNT].sort())
})

test.serial('its lines add up to the balance', async (t) => {
  const books = await useBooks(t)
  const { account } = await makeHistory(t, books)
  const { lines } = await readStatement(books.pool, account, 1000)
  const posted = lines.filter(({ status }) => status === 'posted')
  const sum = posted.reduce((sum, { direction, amount }) => sum + (direction === 'sent' ? -1 : 1) * Number(amount), 0)
  t.is(sum, Number(await balance(books.db, account)))
})

test.serial('a rejected transfer is no line in the statement of who would have received it', async (t) => {
  const { db, pool } = await useBooks(t)
  const [poor, other] = [await open(db), await open(db)]
  t.deepEqual(await post(db, [request(poor, other, '1')]), ['insufficient_funds'])
  t.deepEqual(await readStatement(pool, other, 10), { lines: [], next: null })
  t.is((await readStatement(pool, poor, 10)).lines.length, 1)
})

test.serial('the newest line comes first', async (t) => {
  const books = await useBooks(t)
  const { account } = await makeHistory(t, books)
  const { lines } = await readStatement(books.pool, account, 1000)
  // As text, with as many digits each, RFC 3339 sorts by time.
  const moments = lines.map(({ recorded_at }) => recorded_at.replace('Z', '').padEnd(26, '0'))
  t.deepEqual(moments, moments.toSorted().reverse())
  const sent = lines.filter(({ direction }) => direction === 'sent').map(({ index }) => index)
  t.deepEqual(
    sent,
    sent.map((_, n) => sent.length - 1 - n),
  )
})

test.serial('pages of whatever size are the statement cut into pieces', async (t) => {
  const books = await useBooks(t)
  const { account } = await makeHistory(t, books)
  const { lines } = await readStatement(books.pool, account, 1000)
  for (const limit of [1, 2, 3, 7, lines.length - 1, lines.length, lines.length + 1]) {
    const pages = await readPages(books.pool, account, limit)
    t.deepEqual(pages.flat(), lines, `${limit} a page`)
    t.deepEqual(
      pages.map((page) => page.length),
      pages.map((_, n) => Math.min(limit, lines.length - n * limit)),
      'all pages but the last are full, and none is empty',
    )
  }
})

test.serial('an account without transfers has one empty page', async (t) => {
  const { db, pool } = await useBooks(t)
  t.deepEqual(await readStatement(pool, await open(db), 10), { lines: [], next: null })
})

test.serial('what arrives while somebody turns the pages neither repeats nor hides a line', async (t) => {
  const books = await useBooks(t)
  const { account, friend } = await makeHistory(t, books)
  const { lines } = await readStatement(books.pool, account, 1000)
  const pages = await readPages(books.pool, account, 5, async () => {
    await post(books.db, [request(friend, account, '0.25'), request(account, friend, '0.25')])
  })
  const found = pages.flat()
  t.is(new Set(found.map(({ id }) => id)).size, found.length)
  const known = new Set(lines.map(({ id }) => id))
  t.deepEqual(
    found.filter(({ id }) => known.has(id)),
    lines,
  )
})

for (const first of ['sent', 'received']) {
  test.serial(`nothing newer than the first page is on a later one, though that had only lines ${first}`, async (t) => {
    const { db, pool } = await useBooks(t)
    const [account, other] = [await open(db, '10'), await open(db, '10')]
    const both = [request(other, account, '1'), request(account, other, '1')]
    const steps = first === 'sent' ? both : both.toReversed()
    for (const { source, destination, amount } of steps) await post(db, [request(source, destination, amount)])
    const { lines } = await readStatement(pool, account, 10)
    t.is(lines[0]?.direction, first as Line['direction'])

    const pages = await readPages(pool, account, 1, async () => {
      await post(db, [request(other, account, '0.25'), request(account, other, '0.25')])
    })
    t.deepEqual(pages.flat(), lines)
  })
}

test.serial('lines are in order to the microsecond, however many zeros a moment ends with', async (t) => {
  const { db, pool } = await useBooks(t)
  const [account, other] = [await open(db), await open(db)]
  const moments = ['12:00:00', '12:00:00.000001', '12:00:00.1', '12:00:00.100001', '12:00:00.12', '12:00:00.123456']
  // The clock cannot be told to make these, so the history is written by hand: sent and received by turns.
  for (const [n, time] of moments.entries()) {
    const [source, destination] = n % 2 === 0 ? [account, other] : [other, account]
    const index = Math.floor(n / 2)
    await db.query(
      `INSERT INTO ledger.transfer (source, index, id, destination, amount, spent, recorded_at)
       VALUES ($1, $2, gen_random_uuid(), $3, 1, $2::bigint + 1, $4)`,
      [source, index, destination, `2026-01-31T${time}Z`],
    )
    await db.query(
      'INSERT INTO ledger.credit (destination, source, index, amount, recorded_at) VALUES ($1, $2, $3, 1, $4)',
      [destination, source, index, `2026-01-31T${time}Z`],
    )
  }
  const { lines } = await readStatement(pool, account, 10)
  t.deepEqual(
    lines.map(({ recorded_at }) => recorded_at),
    moments.map((time) => `2026-01-31T${time}Z`).reverse(),
  )
})

test.serial('a credit whose transaction ends late hides nothing either', async (t) => {
  const { db, pool, connect } = await useBooks(t)
  const account = await open(db)
  const sources: string[] = []
  while (sources.length < 6) sources.push(await open(db, undefined, { overdraft: true }))
  const late = connect()
  const [first = '', second = '', third = '', ...rest] = sources
  await post(db, [request(first, account, '1')])
  await late.query('BEGIN')
  await post(late, [request(second, account, '2')])
  for (const source of [third, ...rest]) await post(db, [request(source, account, '3')])

  const seen: string[] = []
  const pages = await readPages(pool, account, 2, async () => {
    await late.query('COMMIT')
  })
  seen.push(...pages.flat().map(({ amount }) => amount))
  t.deepEqual(seen, ['3', '3', '3', '3', '2', '1'])
})
