/*
 * History cannot be changed: not by the service, which may only read and call the functions, and not by the owner of the
 * database, whom the triggers stop. Tried with everything that could, on books with something in them.
 */
import { randomBytes, randomUUID } from 'node:crypto'
import test, { type ExecutionContext } from 'ava'
import type pg from 'pg'
import { asApp } from '../src/db/pool.ts'
import { SERVICE_ACCOUNT } from '../src/transfer.ts'
import { balance, balanced, balances, open, post, readBooks, request } from './support/books.ts'
import { createClient } from './support/client.ts'
import { openAdmin, startService, until, useDatabase } from './support/harness.ts'

const TABLES = ['account', 'transfer', 'credit', 'closing'] as const

const SAMPLE: Record<(typeof TABLES)[number], { insert: string; updates: string[] }> = {
  account: {
    insert: '(id) VALUES (gen_random_uuid())',
    updates: ['overdraft = true', "owner = 'mallory'", 'owner = NULL'],
  },
  transfer: {
    insert: `(source, index, id, destination, amount, spent, recorded_at)
             VALUES (gen_random_uuid(), 0, gen_random_uuid(), gen_random_uuid(), 1, 1, now())`,
    updates: ['amount = 1'],
  },
  credit: {
    insert:
      '(destination, source, index, amount, recorded_at) VALUES (gen_random_uuid(), gen_random_uuid(), 0, 1, now())',
    updates: ['amount = 1'],
  },
  closing: { insert: "(account, horizon, received) VALUES (gen_random_uuid(), '3', 1)", updates: ['received = 1'] },
}

const INSUFFICIENT_PRIVILEGE = '42501'
const RESTRICT_VIOLATION = '23001'
const CHECK_VIOLATION = '23514'
const UNIQUE_VIOLATION = '23505'

type Books = { url: string; owner: pg.Pool; account: string; other: string }

/** Books with a row in every table. */
async function useBooks(t: ExecutionContext): Promise<Books> {
  const { url, connect } = await useDatabase(t)
  const owner = connect()
  const [account, other] = [await open(owner, '10'), await open(owner)]
  await owner.query("SELECT ledger.open_account(gen_random_uuid(), owner => 'alice')")
  await post(owner, [request(account, other, '4'), request(account, other, '40')])
  await until(async () => {
    const { rows } = await owner.query('SELECT ledger.close_books($1) AS closed', [[account]])
    return rows[0].closed === 1
  })
  return { url, owner, account, other }
}

/** Every statement is refused with this SQLSTATE, and the books stay as they are. */
async function refused(t: ExecutionContext, db: pg.Pool, owner: pg.Pool, code: string, statements: string[]) {
  const before = await readBooks(owner)
  for (const statement of statements) await t.throwsAsync(db.query(statement), { code }, statement)
  t.deepEqual(await readBooks(owner), before)
}

function connectAs(t: ExecutionContext, url: string): pg.Pool {
  const pool = openAdmin(url, 1)
  t.teardown(() => pool.end())
  return pool
}

for (const table of TABLES) {
  test.serial(`the service may read ledger.${table}, and not insert, update, delete or truncate`, async (t) => {
    const { url, owner } = await useBooks(t)
    const app = connectAs(t, asApp(url))
    const { insert, updates } = SAMPLE[table]
    await refused(t, app, owner, INSUFFICIENT_PRIVILEGE, [
      `INSERT INTO ledger.${table} ${insert}`,
      ...updates.map((update) => `UPDATE ledger.${table} SET ${update}`),
      `DELETE FROM ledger.${table}`,
      `DELETE FROM ledger.${table} WHERE false`,
      `TRUNCATE ledger.${table}`,
      `DO 'BEGIN LOCK TABLE ledger.${table} IN SHARE MODE; END'`,
      `SELECT * FROM ledger.${table} FOR UPDATE`,
    ])
    const { rows } = await app.query(`SELECT * FROM ledger.${table}`)
    t.true(rows.length > 0)
  })
}

test.serial('the service cannot disarm what protects the ledger', async (t) => {
  const { url, owner } = await useBooks(t)
  const app = await createLogin(t, url, owner, 'transfer_app')
  await refused(t, app, owner, INSUFFICIENT_PRIVILEGE, [
    'SET session_replication_role = replica',
    'ALTER TABLE ledger.transfer DISABLE TRIGGER refuse_change',
    'ALTER TABLE ledger.transfer DISABLE TRIGGER ALL',
    'ALTER TABLE ledger.transfer ADD COLUMN note text',
    'DROP TRIGGER refuse_change ON ledger.transfer',
    'CREATE TABLE ledger.mine ()',
    'CREATE OR REPLACE FUNCTION ledger.mine() RETURNS integer LANGUAGE sql AS $$ SELECT 1 $$',
    'CREATE INDEX ON ledger.transfer (amount)',
    'INSERT INTO ledger.migration (number, name) VALUES (9999, $$mine$$)',
    'DELETE FROM ledger.migration',
    'UPDATE ledger.cluster SET system_identifier = 1',
    'SELECT ledger.drop_closings()',
    'SELECT ledger.refuse_change()',
  ])
  // A grant that is not one's to give is a warning, and gives nothing.
  await app.query('GRANT INSERT ON ledger.transfer TO PUBLIC').catch(() => {})
  await refused(t, app, owner, INSUFFICIENT_PRIVILEGE, [`INSERT INTO ledger.transfer ${SAMPLE.transfer.insert}`])
})

test.serial('through the functions the service can do everything it has to', async (t) => {
  const { url, owner, account, other } = await useBooks(t)
  const app = connectAs(t, asApp(url))
  const fresh = randomUUID()
  const opened = await app.query('SELECT ledger.open_account($1) AS at', [fresh])
  t.truthy(opened.rows[0].at)
  t.deepEqual(await post(app, [request(account, fresh, '6'), request(account, fresh, '1')]), [
    'posted',
    'insufficient_funds',
  ])
  t.deepEqual(await balances(app, [account, other, fresh]), ['0', '4', '6'])
  await app.query('SELECT ledger.close_books($1)', [[account, other, fresh]])
  const { rows } = await app.query('SELECT ledger.balance_at($1, clock_timestamp()) AS balance', [fresh])
  t.is(rows[0].balance, '6')
  await app.query('SELECT ledger.sweep_books($1)', [SERVICE_ACCOUNT])
  t.is((await app.query('SELECT ledger.closings_are_at_home() AS home')).rows[0].home, true)
  t.is(await balance(owner, account), '0')
  await balanced(t, url)
})

test.serial('nobody but the service has been granted the functions', async (t) => {
  const { url, owner, account, other } = await useBooks(t)
  const stranger = await createLogin(t, url, owner)
  await refused(t, stranger, owner, INSUFFICIENT_PRIVILEGE, [
    'SELECT * FROM ledger.transfer',
    `SELECT ledger.open_account('${randomUUID()}')`,
    `SELECT * FROM ledger.post_transfers('{${randomUUID()}}', '{${account}}', '{${other}}', '{1}')`,
    `SELECT ledger.close_books('{${account}}')`,
  ])
})

test.serial('what a caller brings along in its search path is not taken for the ledger', async (t) => {
  const { url, account, other } = await useBooks(t)
  const app = connectAs(t, asApp(url))
  await app.query(`
    CREATE TEMPORARY TABLE account (id uuid, overdraft boolean);
    CREATE TEMPORARY TABLE transfer (source uuid, index bigint, id uuid, spent numeric, reason text, recorded_at timestamptz);
    INSERT INTO account VALUES ('${account}', true);
    SET search_path = pg_temp, ledger`)
  t.deepEqual(await post(app, [request(account, other, '1000')]), ['insufficient_funds'])
  t.is(await balance(app, account), '6')
})

const CHANGES: Record<'account' | 'transfer' | 'credit', string[]> = {
  account: ['MERGE INTO ledger.account a USING ledger.account b ON a.id = b.id WHEN MATCHED THEN DELETE'],
  transfer: ['WITH gone AS (DELETE FROM ledger.transfer RETURNING *) SELECT * FROM gone'],
  credit: ['TRUNCATE ledger.credit, ledger.closing'],
}

for (const [table, more] of Object.entries(CHANGES) as [keyof typeof CHANGES, string[]][]) {
  test.serial(`not even a superuser can update, delete or truncate ledger.${table}`, async (t) => {
    const { owner } = await useBooks(t)
    const { insert, updates } = SAMPLE[table]
    const statements = [
      ...updates.flatMap((update) => [
        `UPDATE ledger.${table} SET ${update}`,
        `UPDATE ledger.${table} SET ${update} WHERE false`,
      ]),
      `DELETE FROM ledger.${table}`,
      `DELETE FROM ONLY ledger.${table} WHERE false`,
      `TRUNCATE ledger.${table}`,
      `TRUNCATE ledger.${table} RESTART IDENTITY CASCADE`,
      ...more,
    ]
    if (table === 'account') {
      for (const update of updates) {
        statements.push(`INSERT INTO ledger.account ${insert} ON CONFLICT (id) DO UPDATE SET ${update}`)
      }
    }
    await refused(t, owner, owner, RESTRICT_VIOLATION, statements)

    await owner.query('SET session_replication_role = replica')
    await refused(t, owner, owner, RESTRICT_VIOLATION, statements)
    await owner.query('RESET session_replication_role')

    // The negative control: these statements do change something once the trigger is gone.
    await owner.query(`ALTER TABLE ledger.${table} DISABLE TRIGGER refuse_change`)
    for (const update of updates) {
      const before = await readBooks(owner)
      await owner.query(`UPDATE ledger.${table} SET ${update}`)
      t.notDeepEqual(await readBooks(owner), before, update)
    }
  })
}

test.serial('a closing can be deleted, because it is derived, but not altered', async (t) => {
  const { url, owner, account } = await useBooks(t)
  await refused(t, owner, owner, RESTRICT_VIOLATION, ['UPDATE ledger.closing SET received = 1000'])
  const before = await balance(owner, account)
  const { rowCount } = await owner.query('DELETE FROM ledger.closing')
  t.is(rowCount, 1)
  t.is(await balance(owner, account), before)
  await balanced(t, url)
})

test.serial('the refusal says what to do instead', async (t) => {
  const { owner } = await useBooks(t)
  const error = await t.throwsAsync<pg.DatabaseError>(owner.query('DELETE FROM ledger.transfer'))
  t.is(error?.message, 'DELETE of ledger.transfer refused: the ledger only grows')
  t.is(error?.hint, 'Undo a transfer with a transfer in the other direction.')
})

test.serial('not even a superuser can insert a transfer that could not be', async (t) => {
  const { owner, account, other } = await useBooks(t)
  const insert = (values: { index?: number; id?: string; destination?: string; amount?: string; source?: string }) => {
    const { index = 2, id = randomUUID(), source = account, destination = other, amount = '1' } = values
    return `INSERT INTO ledger.transfer (source, index, id, destination, amount, spent, recorded_at)
            VALUES ('${source}', ${index}, '${id}', '${destination}', '${amount}', 5, now())`
  }
  const amounts = [
    'NaN',
    '0',
    '0.00',
    '-1',
    '0.000000001',
    '1.123456789',
    '100000000000000000000',
    'Infinity',
    '-Infinity',
  ]
  await refused(t, owner, owner, CHECK_VIOLATION, [
    ...amounts.map((amount) => insert({ amount })),
    insert({ destination: account }),
    insert({ index: -1 }),
  ])
  const { rows } = await owner.query('SELECT id FROM ledger.transfer WHERE source = $1 AND index = 0', [account])
  await refused(t, owner, owner, UNIQUE_VIOLATION, [insert({ index: 1 }), insert({ id: rows[0].id })])
  // The negative control: with nothing wrong in it the same statement goes through.
  await t.notThrowsAsync(owner.query(insert({})))
})

test.serial('an account cannot be opened with a balance that could not be', async (t) => {
  const { owner } = await useBooks(t)
  await refused(
    t,
    owner,
    owner,
    CHECK_VIOLATION,
    ['NaN', '0', '-1', '0.000000001', '100000000000000000000', 'Infinity'].map(
      (opening) => `SELECT ledger.open_account('${randomUUID()}', '${opening}')`,
    ),
  )
})

test.serial("opening an account twice leaves it as it was, and whose it was, somebody's or nobody's", async (t) => {
  const { owner } = await useBooks(t)
  const before = await readBooks(owner)
  const { rows } = await owner.query(
    "SELECT owner, ledger.open_account(id, 100, true, 'mallory') AS at FROM ledger.account",
  )
  t.true(['alice', null].every((whose) => rows.some((row) => row.owner === whose)))
  t.true(rows.every((row) => row.at === null))
  t.deepEqual(await readBooks(owner), before)
})

test.serial('the whole service runs on a login that owns nothing and was granted one role', async (t) => {
  const { url, owner } = await useBooks(t)
  const login = await createLogin(t, url, owner, 'transfer_app')
  const service = await startService({ backend: 'postgres', database: login.url })
  t.teardown(service.stop)
  t.is(await balance(owner, await createClient(service.url).open('12.50')), '12.50')
})

/** A login of its own, that goes with the test. Roles belong to the whole cluster. */
async function createLogin(t: ExecutionContext, url: string, owner: pg.Pool, role?: string) {
  const [name, password] = [`transfer_test_${randomBytes(5).toString('hex')}`, randomBytes(12).toString('hex')]
  await owner.query(`CREATE ROLE ${name} LOGIN PASSWORD '${password}' ${role ? `IN ROLE ${role}` : ''}`)
  const login = new URL(url)
  login.username = name
  login.password = password
  const pool = openAdmin(login.href, 1)
  t.teardown(async () => {
    await pool.end()
    await owner.query(`DROP OWNED BY ${name}; DROP ROLE ${name}`)
  })
  return Object.assign(pool, { url: login.href })
}
