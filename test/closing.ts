/*
 * Closings: they keep long books short, whoever lengthens them, and never change a balance; and those made in another
 * cluster, whose transaction ids mean nothing here, are not believed.
 */
import { randomUUID } from 'node:crypto'
import test, { type ExecutionContext } from 'ava'
import type pg from 'pg'
import { audit } from '../src/db/audit.ts'
import { closeBooks, LONG_TAIL, refuseOtherCluster, sweepBooks } from '../src/db/closing.ts'
import { openPool } from '../src/db/pool.ts'
import { SERVICE_ACCOUNT } from '../src/transfer.ts'
import { balance, balanced, balances, open, post, readBooks, request } from './support/books.ts'
import { createClient } from './support/client.ts'
import { backends, captureLog, startService, until, useDatabase } from './support/harness.ts'

/** Enough for a long tail. */
const MANY = 150

async function useBooks(t: ExecutionContext) {
  const { url, connect } = await useDatabase(t)
  const pool = await openPool({ databaseUrl: url, connections: 1, timeout_ms: 10_000, log: captureLog([]) })
  t.teardown(() => pool.end())
  return { url, db: connect(), pool }
}

async function receive(db: pg.Pool, account: string, count = MANY): Promise<void> {
  const payer = await open(db, undefined, { overdraft: true })
  await post(
    db,
    Array.from({ length: count }, () => request(payer, account, '0.5')),
  )
}

async function tail(db: pg.Pool, account: string): Promise<number> {
  const { rows } = await db.query<{ tail: number }>('SELECT tail FROM ledger.balances($1)', [[account]])
  return rows[0]?.tail ?? -1
}

/** A transaction of another test may hold back every horizon for a while. */
async function untilShort(db: pg.Pool, account: string, close: () => Promise<unknown>): Promise<void> {
  await until(async () => {
    await close()
    return (await tail(db, account)) === 0
  })
}

test.serial(
  'the tail is what has to be added up, and a closing makes it short without changing the balance',
  async (t) => {
    const { url, db } = await useBooks(t)
    const account = await open(db)
    await receive(db, account)
    t.is(await tail(db, account), MANY)
    await untilShort(db, account, () => db.query('SELECT ledger.close_books($1)', [[account]]))
    t.is(await balance(db, account), '75.0')
    await receive(db, account, 7)
    t.is(await tail(db, account), 7)
    t.is(await balance(db, account), '78.5')
    await balanced(t, url)
  },
)

test.serial('books with nothing new in them are not closed again', async (t) => {
  const { db } = await useBooks(t)
  const account = await open(db)
  await receive(db, account)
  await untilShort(db, account, () => db.query('SELECT ledger.close_books($1)', [[account]]))
  const before = await readBooks(db)
  const { rows } = await db.query('SELECT ledger.close_books($1) AS closed', [[account, account, randomUUID()]])
  t.is(rows[0].closed, 0)
  t.deepEqual(await readBooks(db), before)
})

test.serial('the door names the sources with a long tail, and only those', async (t) => {
  const { db } = await useBooks(t)
  const [long, short, other] = [await open(db), await open(db), await open(db)]
  await receive(db, long, LONG_TAIL + 1)
  await receive(db, short, LONG_TAIL)
  const { rows } = await db.query(
    `SELECT long_tails FROM ledger.post_transfers(
       ARRAY[gen_random_uuid(), gen_random_uuid()], ARRAY[$1, $2]::uuid[], ARRAY[$3, $3]::uuid[], ARRAY[1, 1])`,
    [long, short, other],
  )
  t.deepEqual(rows[0].long_tails, [long])
})

test.serial('the door adds up a tail only for who is asked to send more than the last closing holds', async (t) => {
  const { url, db } = await useBooks(t)
  const [account, other] = [await open(db), await open(db)]
  await receive(db, account, 20)
  await untilShort(db, account, () => db.query('SELECT ledger.close_books($1)', [[account]]))
  await receive(db, account, LONG_TAIL + 1)
  const ask = async (...amounts: string[]) => {
    const { rows } = await db.query(
      `SELECT outcomes, long_tails FROM ledger.post_transfers(
         array(SELECT gen_random_uuid() FROM unnest($3::numeric[])), array(SELECT $1::uuid FROM unnest($3)),
         array(SELECT $2::uuid FROM unnest($3)), $3)`,
      [account, other, amounts],
    )
    return rows[0]
  }
  t.deepEqual(await ask('4', '6'), { outcomes: ['posted', 'posted'], long_tails: [] })
  // Nothing is left of the closing, but half of every credit since.
  t.deepEqual(await ask('6.5', '0.00000001'), { outcomes: ['posted', 'insufficient_funds'], long_tails: [account] })
  t.is(await balance(db, account), '0.0')
  await balanced(t, url)
})

test.serial('a sweep closes all long books and no others, however many accounts there are', async (t) => {
  const { url, db, pool } = await useBooks(t)
  // More than two pages of them, and the long ones on the first, a middle and the last.
  await db.query('INSERT INTO ledger.account (id) SELECT gen_random_uuid() FROM generate_series(1, 2500)')
  const { rows } = await db.query<{ id: string }>('SELECT id FROM ledger.account WHERE id <> $1 ORDER BY id', [
    SERVICE_ACCOUNT,
  ])
  const long = [rows[0], rows[1200], rows.at(-1)].map((row) => row?.id ?? '')
  const short = rows[5]?.id ?? ''
  for (const account of long) await receive(db, account)
  await receive(db, short, LONG_TAIL)
  const before = await balances(db, [...long, short])

  for (const account of long) await untilShort(db, account, () => sweepBooks(pool))
  t.is(await tail(db, short), LONG_TAIL)
  t.deepEqual(await balances(db, [...long, short]), before)
  await balanced(t, url)
})

test.serial('a worker closes the books of who spends with a long tail, by itself', async (t) => {
  const service = await startService({ backend: 'postgres' })
  t.teardown(service.stop)
  const { pool: db } = service
  const [account, other] = [await open(db), await open(db)]
  await receive(db, account)
  const http = createClient(service.url)
  await untilShort(db, account, () => http.transfer(account, other, '0.01'))
  await balanced(t, service.databaseUrl)
})

for (const backend of backends) {
  test.serial(
    `${backend}: a read that finds long tails has them closed, however many accounts they are of`,
    async (t) => {
      const service = await startService({ backend })
      t.teardown(service.stop)
      const { pool: db } = service
      const accounts = await Promise.all(Array.from({ length: 3 }, () => open(db)))
      for (const account of accounts) await receive(db, account)
      const http = createClient(service.url)
      const read = () => Promise.all(accounts.map((account) => http.get(`/accounts/${account}/balance`)))
      for (const account of accounts) await untilShort(db, account, read)
      t.deepEqual(
        (await read()).map(({ body }) => body.balance),
        accounts.map(() => '75.0'),
      )
      await balanced(t, service.databaseUrl)
    },
  )
}

test.serial('more books than one transaction closes are closed all the same', async (t) => {
  const { db, pool } = await useBooks(t)
  const payer = await open(db, undefined, { overdraft: true })
  const accounts = await Promise.all(Array.from({ length: 1001 }, () => open(db)))
  await post(
    db,
    accounts.map((account) => request(payer, account, '1')),
  )
  await until(async () => {
    await closeBooks(pool, accounts)
    const { rows } = await db.query('SELECT count(*)::int AS open FROM ledger.balances($1) WHERE tail > 0', [accounts])
    return rows[0].open === 0
  })
  t.pass()
})

/** As after a dump in a cluster that was further ahead, where the books had been closed, and a restore into this one. */
async function restoreFromElsewhere(db: pg.Pool, account: string): Promise<void> {
  await untilShort(db, account, () => db.query('SELECT ledger.close_books($1)', [[account]]))
  await db.query(`
    ALTER TABLE ledger.credit DISABLE TRIGGER refuse_change;
    ALTER TABLE ledger.closing DISABLE TRIGGER refuse_change;
    UPDATE ledger.credit SET xid = (xid::text::bigint + 1000000000)::text::xid8;
    UPDATE ledger.closing SET horizon = (horizon::text::bigint + 1000000000)::text::xid8;
    ALTER TABLE ledger.credit ENABLE ALWAYS TRIGGER refuse_change;
    ALTER TABLE ledger.closing ENABLE ALWAYS TRIGGER refuse_change;
    UPDATE ledger.cluster SET system_identifier = 1`)
}

test.serial('a ledger restored from another cluster is refused until its closings are dropped', async (t) => {
  const { db, pool } = await useBooks(t)
  const [account, other] = [await open(db), await open(db)]
  await receive(db, account)
  await t.notThrowsAsync(refuseOtherCluster(pool))
  await restoreFromElsewhere(db, account)
  await t.throwsAsync(refuseOtherCluster(pool), {
    message:
      'this ledger was restored from another cluster, whose transaction ids mean nothing here, so its closings cannot ' +
      'be trusted: stop all workers and run `npm run closings`, which drops and rebuilds them',
  })

  // The reason why: here a closing from elsewhere hides what is received from now on.
  await receive(db, account, 2)
  t.is(await balance(db, account), '75.0')

  await db.query('SELECT ledger.drop_closings()')
  await t.notThrowsAsync(refuseOtherCluster(pool))
  t.is(await balance(db, account), '76.0')
  await until(async () => {
    await sweepBooks(pool)
    // Two were received later, which may still lie above the horizon.
    return (await tail(db, account)) <= 2
  })
  t.is(await balance(db, account), '76.0')
  t.deepEqual(await post(db, [request(account, other, '76')]), ['posted'])
  t.is(await balance(db, account), '0.0')
})

test.serial('after dropping them the ledger is as closed to changes as before', async (t) => {
  const { db } = await useBooks(t)
  const account = await open(db)
  await receive(db, account)
  await restoreFromElsewhere(db, account)
  await db.query('SELECT ledger.drop_closings()')
  await t.throwsAsync(db.query('UPDATE ledger.credit SET amount = 2'), { code: '23001' })
  await db.query('SET session_replication_role = replica')
  await t.throwsAsync(db.query('DELETE FROM ledger.credit'), { code: '23001' })
})

test.serial('the audit of a restored ledger finds nothing wrong', async (t) => {
  const { url, db } = await useBooks(t)
  const [account, other] = [await open(db), await open(db)]
  await receive(db, account)
  t.deepEqual(await post(db, [request(account, other, '20')]), ['posted'])
  t.true((await audit(url)).ok)
  await restoreFromElsewhere(db, account)
  await db.query('SELECT ledger.drop_closings()')
  await balanced(t, url)
})

test.serial('at home, dropping all closings changes no balance, and a sweep makes new ones', async (t) => {
  const { url, db, pool } = await useBooks(t)
  const account = await open(db)
  await receive(db, account)
  await untilShort(db, account, () => db.query('SELECT ledger.close_books($1)', [[account]]))
  const credits = (await readBooks(db)).credit
  await db.query('SELECT ledger.drop_closings()')
  t.is(await tail(db, account), MANY)
  t.is(await balance(db, account), '75.0')
  t.deepEqual((await readBooks(db)).credit, credits)
  await untilShort(db, account, () => sweepBooks(pool))
  t.is(await balance(db, account), '75.0')
  await balanced(t, url)
})
