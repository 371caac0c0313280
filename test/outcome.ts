/*
 * Outcomes: each request is posted, or rejected with the first reason that applies, once and for ever.
 */
import { randomUUID } from 'node:crypto'
import anyTest, { type TestFn } from 'ava'
import type pg from 'pg'
import { SERVICE_ACCOUNT } from '../src/transfer.ts'
import {
  balance,
  balanced,
  balances,
  chain,
  copyFunction,
  fund,
  open,
  post,
  readBooks,
  request,
} from './support/books.ts'
import { createDatabase, type Database, openAdmin } from './support/harness.ts'

const test = anyTest as TestFn<{ database: Database; db: pg.Pool }>

// Each test has accounts of its own. Serial, because they share the service account: two at once would find it busy.
test.before(async (t) => {
  const database = await createDatabase()
  t.context = { database, db: openAdmin(database.url) }
})

test.after.always('the books balance', async (t) => {
  const { database, db } = t.context
  await balanced(t, database.url)
  await db.end()
  await database.drop()
})

// Source: what is in it, or what it is. Each row on accounts of its own.
const TABLE: [source: string, destination: 'open' | 'unknown', amount: string, outcome: string][] = [
  ['unknown', 'unknown', '1', 'unknown_source'],
  ['unknown', 'open', '1', 'unknown_source'],
  ['empty', 'unknown', '1', 'unknown_destination'],
  ['100', 'unknown', '101', 'unknown_destination'],
  ['100', 'unknown', '1', 'unknown_destination'],
  ['overdraft', 'unknown', '1', 'unknown_destination'],
  ['empty', 'open', '0.00000001', 'insufficient_funds'],
  ['100', 'open', '100.00000001', 'insufficient_funds'],
  ['100', 'open', '99999999999999999999.99999999', 'insufficient_funds'],
  ['100', 'open', '100', 'posted'],
  ['100', 'open', '100.00000000', 'posted'],
  ['100', 'open', '99.99999999', 'posted'],
  ['overdraft', 'open', '1', 'posted'],
  ['overdraft', 'open', '99999999999999999999.99999999', 'posted'],
]

for (const [from, to, amount, outcome] of TABLE) {
  test.serial(`${amount} from ${from} to ${to}: ${outcome}`, async (t) => {
    const { db } = t.context
    const source = await openAs(db, from)
    const destination = to === 'open' ? await open(db) : randomUUID()
    const before = await balances(db, [source, destination])
    const transfer = request(source, destination, amount)

    t.deepEqual(await post(db, [transfer]), [outcome])

    const posted = outcome === 'posted'
    t.deepEqual(await chain(db, source), [
      { index: 0, id: transfer.id, destination, amount, spent: posted ? amount : '0', reason: posted ? null : outcome },
    ])
    const { rows: credits } = await db.query('SELECT source, index, amount FROM ledger.credit WHERE destination = $1', [
      destination,
    ])
    if (posted) {
      t.deepEqual(credits, [{ source, index: 0, amount }])
      t.is(await balance(db, destination), amount)
    } else {
      t.deepEqual(credits, [])
      t.deepEqual(await balances(db, [source, destination]), before)
    }
  })
}

async function openAs(db: pg.Pool, what: string): Promise<string> {
  if (what === 'unknown') return randomUUID()
  if (what === 'overdraft') return await open(db, undefined, { overdraft: true })
  return await open(db, what === 'empty' ? undefined : what)
}

test.serial('the service account goes below zero, and what it spends is what the others have', async (t) => {
  const { db } = t.context
  const account = await open(db)
  const before = await balance(db, SERVICE_ACCOUNT)
  await fund(db, account, '12.34')
  t.is(await balance(db, account), '12.34')
  const { rows } = await db.query('SELECT $1::numeric - $2::numeric AS difference', [
    before,
    await balance(db, SERVICE_ACCOUNT),
  ])
  t.is(Number(rows[0].difference), 12.34)
})

test.serial('an account with an overdraft goes below zero, and back', async (t) => {
  const { db } = t.context
  const [debtor, other] = [await open(db, '10', { overdraft: true }), await open(db)]
  t.deepEqual(await post(db, [request(debtor, other, '25.5')]), ['posted'])
  t.is(await balance(db, debtor), '-15.5')
  t.deepEqual(await post(db, [request(other, debtor, '20.5')]), ['posted'])
  t.is(await balance(db, debtor), '5.0')
})

test.serial(
  'exactly the available balance can be spent, in one or in many transfers, and not a hundred-millionth more',
  async (t) => {
    const { db } = t.context
    const [source, destination] = [await open(db, '0.3'), await open(db)]
    const asked = ['0.1', '0.1', '0.1', '0.00000001'].map((amount) => request(source, destination, amount))
    t.deepEqual(await post(db, asked), ['posted', 'posted', 'posted', 'insufficient_funds'])
    t.deepEqual(await balances(db, [source, destination]), ['0.0', '0.3'])
  },
)

test.serial('a rejection takes an index, and spends nothing', async (t) => {
  const { db } = t.context
  const [source, destination] = [await open(db, '10'), await open(db)]
  const asked = ['4', '7', '6', '1'].map((amount) => request(source, destination, amount))
  t.deepEqual(await post(db, asked), ['posted', 'insufficient_funds', 'posted', 'insufficient_funds'])
  t.deepEqual(
    (await chain(db, source)).map(({ index, amount, spent, reason }) => [index, amount, spent, reason]),
    [
      [0, '4', '4', null],
      [1, '7', '4', 'insufficient_funds'],
      [2, '6', '10', null],
      [3, '1', '10', 'insufficient_funds'],
    ],
  )
})

test.serial('a source that nobody opened has a chain too, which goes on when it is opened', async (t) => {
  const { db } = t.context
  const [source, destination] = [randomUUID(), await open(db)]
  const [early, late] = [request(source, destination, '1'), request(source, destination, '1')]
  t.deepEqual(await post(db, [early]), ['unknown_source'])
  await db.query('SELECT ledger.open_account($1)', [source])
  await fund(db, source, '1')
  t.deepEqual(await post(db, [early, late]), ['unknown_source', 'posted'])
  t.deepEqual(
    (await chain(db, source)).map(({ index, reason }) => [index, reason]),
    [
      [0, 'unknown_source'],
      [1, null],
    ],
  )
})

test.serial('requests of one source are decided in the order asked, whoever stands between them', async (t) => {
  const { db } = t.context
  const [a, b, c] = [await open(db, '10'), await open(db, '10'), await open(db)]
  const outcomes = await post(db, [
    request(a, c, '6'),
    request(b, c, '10'),
    request(a, c, '6'),
    request(b, c, '1'),
    request(a, c, '4'),
  ])
  t.deepEqual(outcomes, ['posted', 'posted', 'insufficient_funds', 'insufficient_funds', 'posted'])
  t.deepEqual(await balances(db, [a, b, c]), ['0', '0', '20'])
})

test.serial('money can be spent from the call after the one that brought it', async (t) => {
  const { db } = t.context
  const [a, b, c] = [await open(db, '10'), await open(db), await open(db)]
  t.deepEqual(await post(db, [request(a, b, '10'), request(b, c, '10')]), ['posted', 'insufficient_funds'])
  t.deepEqual(await post(db, [request(b, c, '10')]), ['posted'])
  t.deepEqual(await balances(db, [a, b, c]), ['0', '0', '10'])
})

const DIGITS = [
  '1',
  '1.0',
  '12.50',
  '0.00000001',
  '1.10000000',
  '99999999999999999999',
  '99999999999999999999.99999999',
]

test.serial('amounts keep the digits they were sent with, on both sides', async (t) => {
  const { db } = t.context
  const [source, destination] = [await open(db, undefined, { overdraft: true }), await open(db)]
  t.deepEqual(
    await post(
      db,
      DIGITS.map((amount) => request(source, destination, amount)),
    ),
    DIGITS.map(() => 'posted'),
  )
  t.deepEqual(
    (await chain(db, source)).map(({ amount }) => amount),
    DIGITS,
  )
  const { rows } = await db.query('SELECT amount FROM ledger.credit WHERE destination = $1 ORDER BY index', [
    destination,
  ])
  t.deepEqual(
    rows.map(({ amount }) => amount),
    DIGITS,
  )
  t.is(await balance(db, destination), '200000000000000000014.60000000')
})

test.serial('a posted transfer asked for again is not posted again, even when the money is gone', async (t) => {
  const { db } = t.context
  const [source, destination] = [await open(db, '10'), await open(db)]
  const transfer = request(source, destination, '10')
  t.deepEqual(await post(db, [transfer]), ['posted'])
  const before = await readBooks(db)
  t.deepEqual(await post(db, [transfer]), ['posted'])
  t.deepEqual(await post(db, [transfer, transfer]), ['posted', 'posted'])
  t.deepEqual(await readBooks(db), before)
})

test.serial('a rejected transfer asked for again stays rejected, even when the reason is gone', async (t) => {
  const { db } = t.context
  const [source, nobody] = [await open(db), randomUUID()]
  const [poor, lost] = [request(source, SERVICE_ACCOUNT, '10'), request(source, nobody, '10')]
  t.deepEqual(await post(db, [poor, lost]), ['insufficient_funds', 'unknown_destination'])
  await fund(db, source, '100')
  await db.query('SELECT ledger.open_account($1)', [nobody])
  const before = await readBooks(db)
  t.deepEqual(await post(db, [lost, poor]), ['unknown_destination', 'insufficient_funds'])
  t.deepEqual(await readBooks(db), before)
})

test.serial('the first decision stands, whatever is asked under its id later', async (t) => {
  const { db } = t.context
  const [source, destination, other] = [await open(db, '10'), await open(db), await open(db)]
  const first = request(source, destination, '1')
  t.deepEqual(await post(db, [first]), ['posted'])
  const before = await readBooks(db)
  const later = [request(source, other, '2', first.id), request(source, randomUUID(), '1000', first.id)]
  t.deepEqual(await post(db, later), ['posted', 'posted'])
  t.deepEqual(await readBooks(db), before)
})

test.serial('a repeat makes no room for what is asked with it, whatever amount it names now', async (t) => {
  const { db } = t.context
  const [source, destination] = [await open(db, '10'), await open(db)]
  const first = request(source, destination, '10')
  t.deepEqual(await post(db, [first]), ['posted'])
  const asked = (amount: string) => [{ ...first, amount }, request(source, destination, '1')]
  for (const amount of ['-1000', '0', 'NaN', '-Infinity', 'Infinity']) {
    t.deepEqual(await post(db, asked(amount)), ['posted', 'insufficient_funds'], amount)
  }
  t.is(await balance(db, source), '0')

  // The negative control: a door that adds up whatever is asked believes that nothing is, and does not look.
  const client = await db.connect()
  await client.query('BEGIN')
  await copyFunction(client, 'ledger.post_transfers', 'ledger.credulous', [
    ['sum(greatest(request.amount, 0))', 'sum(request.amount)'],
    ['coalesce(funds.received, closed.received, 0)', 'coalesce(funds.received, closed.received)'],
  ])
  t.deepEqual(await post(client, asked('-1000'), 'ledger.credulous'), ['posted', 'posted'])
  await client.query('ROLLBACK')
  client.release()
})

test.serial('of one id repeated in a batch the first is decided, and the others repeat its outcome', async (t) => {
  const { db } = t.context
  const [source, destination] = [await open(db, '10'), await open(db)]
  const [good, bad] = [request(source, destination, '6'), request(source, destination, '5')]
  const unlike = request(source, destination, '1', bad.id)
  t.deepEqual(await post(db, [good, bad, good, unlike, bad, good]), [
    'posted',
    'insufficient_funds',
    'posted',
    'insufficient_funds',
    'insufficient_funds',
    'posted',
  ])
  t.deepEqual(
    (await chain(db, source)).map(({ index, id, amount }) => [index, id, amount]),
    [
      [0, good.id, '6'],
      [1, bad.id, '5'],
    ],
  )
  t.deepEqual(await balances(db, [source, destination]), ['4', '6'])
})

test.serial('a source that another call is deciding for is left undecided, its neighbours are not', async (t) => {
  const { database, db } = t.context
  const [busy, free, destination] = [await open(db, '10'), await open(db, '10'), await open(db)]
  const first = request(busy, destination, '10')
  const asked = [request(busy, destination, '10'), request(free, destination, '10'), first]
  const other = openAdmin(database.url, 1)
  await other.query('BEGIN')
  t.deepEqual(await post(other, [first]), ['posted'])

  t.deepEqual(await post(db, asked), [null, 'posted', null])
  t.deepEqual(await chain(db, busy), [], 'nothing was decided for the busy source')

  await other.query('COMMIT')
  await other.end()
  t.deepEqual(await post(db, asked), ['insufficient_funds', 'posted', 'posted'])
  t.deepEqual(await balances(db, [busy, free, destination]), ['0', '0', '20'])
})

test.serial('a call that is rolled back leaves nothing, and its ids can be decided by another', async (t) => {
  const { database, db } = t.context
  const [source, destination] = [await open(db, '10'), await open(db)]
  const transfer = request(source, destination, '10')
  const before = await readBooks(db)
  const other = openAdmin(database.url, 1)
  await other.query('BEGIN')
  t.deepEqual(await post(other, [transfer]), ['posted'])
  await other.query('ROLLBACK')
  await other.end()
  t.deepEqual(await readBooks(db), before)
  t.deepEqual(await post(db, [transfer]), ['posted'])
})

// Requests that the API would never let through: the database refuses them, and with them the call they are in.
const NONSENSE: Record<string, { amount?: string; toItself?: true }> = {
  'an amount of zero': { amount: '0' },
  'a negative amount': { amount: '-1' },
  'an amount that is no number': { amount: 'NaN' },
  'an infinite amount': { amount: 'Infinity' },
  'a negatively infinite amount': { amount: '-Infinity' },
  'nine digits after the point': { amount: '0.000000001' },
  'twenty-one digits before the point': { amount: '100000000000000000000' },
  'a transfer to itself': { toItself: true },
}

for (const [what, { amount = '1', toItself }] of Object.entries(NONSENSE)) {
  for (const overdraft of [false, true]) {
    test.serial(`${what}, ${overdraft ? 'with' : 'without'} an overdraft, is refused, and nothing moves`, async (t) => {
      const { db } = t.context
      const [source, destination] = [await open(db, '10', { overdraft }), await open(db)]
      const before = await readBooks(db)
      const asked = [request(source, destination, '1'), request(source, toItself ? source : destination, amount)]
      await t.throwsAsync(post(db, asked), { code: '23514' })
      t.deepEqual(await readBooks(db), before)
    })
  }
}
