/*
 * Migrations: every database ends with the schema of this code or is refused with a sentence, whoever migrates it, how
 * often, and at whatever time.
 */
import { readdir } from 'node:fs/promises'
import test, { type ExecutionContext } from 'ava'
import type pg from 'pg'
import { migrate, refuseOtherVersion } from '../src/db/migrate.ts'
import { openPool } from '../src/db/pool.ts'
import { balance, balanced, open, readBooks } from './support/books.ts'
import { captureLog, type OwnDatabase, useDatabase } from './support/harness.ts'

const FILES = (await readdir(new URL('../sql/', import.meta.url))).filter((name) => name.endsWith('.sql')).sort()

const VERSION = Number(FILES.at(-1)?.slice(0, 4))

const useEmpty = (t: ExecutionContext): Promise<OwnDatabase> => useDatabase(t, { empty: true })

/** Everything that migrations make, in words, to be compared. */
async function readSchema(db: pg.Pool): Promise<string[]> {
  const { rows } = await db.query<{ line: string }>(`
    SELECT concat_ws(' ', 'column', attrelid::regclass, attname, format_type(atttypid, atttypmod), attnotnull) AS line
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    WHERE relnamespace::regnamespace::text IN ('ledger', 'bullmq') AND attnum > 0
    UNION ALL SELECT concat_ws(' ', 'index', pg_get_indexdef(indexrelid)) FROM pg_index
      JOIN pg_class ON pg_class.oid = indexrelid WHERE relnamespace::regnamespace::text IN ('ledger', 'bullmq')
    UNION ALL SELECT concat_ws(' ', 'constraint', conrelid::regclass, conname, pg_get_constraintdef(oid))
      FROM pg_constraint WHERE connamespace::regnamespace::text IN ('ledger', 'bullmq')
    UNION ALL SELECT concat_ws(' ', 'function', pg_get_functiondef(oid), proacl::text) FROM pg_proc
      WHERE pronamespace::regnamespace::text IN ('ledger', 'bullmq') AND prokind = 'f'
    UNION ALL SELECT concat_ws(' ', 'trigger', pg_get_triggerdef(oid), tgenabled) FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT concat_ws(' ', 'relation', oid::regclass, relkind, relacl::text) FROM pg_class
      WHERE relnamespace::regnamespace::text IN ('ledger', 'bullmq')
    UNION ALL SELECT concat_ws(' ', 'migration', number, name) FROM ledger.migration
    ORDER BY 1`)
  return rows.map(({ line }) => line)
}

test.serial('a fresh database gets every file, in order, once', async (t) => {
  const { url, connect } = await useEmpty(t)
  t.deepEqual(await migrate(url, { queue: true }), FILES)
  const { rows } = await connect().query('SELECT number, name FROM ledger.migration ORDER BY number')
  t.deepEqual(
    rows,
    FILES.map((name) => ({ number: Number(name.slice(0, 4)), name })),
  )
})

test.serial('a second time nothing is left to do, and nothing changes', async (t) => {
  const { url, connect } = await useEmpty(t)
  await migrate(url, { queue: true })
  const db = connect()
  const account = await open(db, '10')
  const [schema, books] = [await readSchema(db), await readBooks(db)]
  t.deepEqual(await migrate(url, { queue: true }), [])
  t.deepEqual(await readSchema(db), schema)
  t.deepEqual(await readBooks(db), books)
  t.is(await balance(db, account), '10')
  await balanced(t, url)
})

test.serial('of several migrators at once one does it all, and the others find it done', async (t) => {
  const [together, alone] = [await useEmpty(t), await useEmpty(t)]
  const applied = await Promise.all(Array.from({ length: 4 }, () => migrate(together.url, { queue: true })))
  t.deepEqual(applied.map((files) => files.length).sort(), [0, 0, 0, FILES.length])
  t.deepEqual(applied.flat(), FILES)

  await migrate(alone.url, { queue: true })
  t.deepEqual(await readSchema(together.connect()), await readSchema(alone.connect()))
})

test.serial('the tables of a queue in Postgres can be left out, and come later', async (t) => {
  const { url, connect } = await useEmpty(t)
  const db = connect()
  const hasQueue = async () => (await db.query("SELECT to_regnamespace('bullmq') IS NOT NULL AS has")).rows[0].has
  t.deepEqual(await migrate(url, { queue: false }), FILES)
  t.false(await hasQueue())
  t.deepEqual(await migrate(url, { queue: true }), [])
  t.true(await hasQueue())
})

test.serial('a file that fails leaves nothing of itself, and is taken up again', async (t) => {
  const { url, connect } = await useEmpty(t)
  const db = connect()
  // In the way of the second file; the schema is there before the first.
  await db.query('CREATE SCHEMA ledger')
  await db.query('CREATE FUNCTION ledger.balances(uuid[]) RETURNS integer LANGUAGE sql AS $$ SELECT 1 $$')
  await t.throwsAsync(migrate(url, { queue: true }), { message: /balances/ })
  const applied = await db.query(
    "SELECT array_agg(number) AS numbers, to_regproc('ledger.received') AS received FROM ledger.migration",
  )
  t.deepEqual(applied.rows, [{ numbers: [1], received: null }])

  await db.query('DROP FUNCTION ledger.balances(uuid[])')
  t.deepEqual(await migrate(url, { queue: true }), FILES.slice(1))
  const { url: other, connect: connectOther } = await useEmpty(t)
  await migrate(other, { queue: true })
  t.deepEqual(await readSchema(db), await readSchema(connectOther()))
})

const pool = async (t: ExecutionContext, databaseUrl: string) => {
  const pool = await openPool({ databaseUrl, connections: 1, timeout_ms: 5000, log: captureLog([]) })
  t.teardown(() => pool.end())
  return pool
}

const NEWER = {
  message:
    `the database is at version 9999, newer than this code, which knows versions up to ${VERSION}: ` +
    'run the release that migrated it, or a later one',
}

test.serial('a database newer than the code is refused with a sentence, and left alone', async (t) => {
  const { url, connect } = await useDatabase(t)
  const db = connect()
  await db.query("INSERT INTO ledger.migration (number, name) VALUES (9999, '9999_future.sql')")
  const before = await readSchema(db)
  await t.throwsAsync(migrate(url, { queue: true }), NEWER)
  await t.throwsAsync(refuseOtherVersion(await pool(t, url)), NEWER)
  t.deepEqual(await readSchema(db), before)
})

test.serial('an older database is refused by who does not migrate, with a sentence that says who does', async (t) => {
  const { url, connect } = await useDatabase(t)
  const db = connect()
  await db.query('DELETE FROM ledger.migration WHERE number = $1', [VERSION])
  const before = await readSchema(db)
  await t.throwsAsync(refuseOtherVersion(await pool(t, url)), {
    message: `the database is at version ${VERSION - 1}, this code needs ${VERSION}: npm run migrate`,
  })
  t.deepEqual(await readSchema(db), before)
})

test.serial('so is an empty one', async (t) => {
  const { url } = await useEmpty(t)
  await t.throwsAsync(refuseOtherVersion(await pool(t, url)), {
    message: `the database is at version 0, this code needs ${VERSION}: npm run migrate`,
  })
})

test.serial('and one whose first migration broke off', async (t) => {
  const { url, connect } = await useEmpty(t)
  const db = connect()
  await db.query('CREATE SCHEMA ledger')
  await db.query('CREATE FUNCTION ledger.balances(uuid[]) RETURNS integer LANGUAGE sql AS $$ SELECT 1 $$')
  await t.throwsAsync(migrate(url, { queue: true }))
  await t.throwsAsync(refuseOtherVersion(await pool(t, url)), { message: /npm run migrate/ })
})

test.serial('a database of exactly this version is let in', async (t) => {
  const { url } = await useDatabase(t)
  await t.notThrowsAsync(refuseOtherVersion(await pool(t, url)))
})
