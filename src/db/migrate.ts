/*
 * Migrations
 *
 * The files in sql/, in the order of their numbers, each once, each in a transaction of its own. A function of any length
 * has one text: who changes it moves its file to the end, under the next number. Two migrators at once are safe: the
 * second waits for the first and finds nothing left to do. A database newer than the code is refused: older code does not
 * know what it would break. `npm run migrate` runs this alone.
 */
import { readdir, readFile } from 'node:fs/promises'
import pg from 'pg'
import { type DatabasePool, sql } from 'slonik'
import { z } from 'zod'
import { migrateQueue } from '../queue.ts'
import { readSettings } from '../settings.ts'
import { Refusal } from './fault.ts'

const FOLDER = new URL('../../sql/', import.meta.url)

/** Any constant does, as long as every version of this code uses the same: it spells "TRNS". */
const MIGRATION_LOCK = 0x54524e53

type Migration = { number: number; name: string }

/**
 * @param options.queue also bring up the tables of the queue, for a queue that lives in Postgres.
 * @returns the names of the files applied; none if the database was up to date.
 * @throws Error if the database is newer than this code, or older than Postgres 15.
 */
export async function migrate(databaseUrl: string, options: { queue: boolean }): Promise<string[]> {
  const client = new pg.Client({ connectionString: databaseUrl })
  await client.connect()
  try {
    await refuseOldPostgres(client)
    await client.query('SELECT pg_advisory_lock($1)', [MIGRATION_LOCK])
    const applied = await migrateLedger(client)
    if (options.queue) await migrateQueue(client)
    return applied
  } finally {
    await client.end()
  }
}

/** @throws Error unless the database is exactly as new as this code; for processes that do not migrate themselves. */
export async function refuseOtherVersion(pool: DatabasePool): Promise<void> {
  const known = await readFolder()
  // The catalogue is readable by everyone; the table only once the last migration has been through.
  const readable = await pool.maybeOneFirst(sql.type(z.object({ readable: z.boolean() }))`
    SELECT has_schema_privilege(space.oid, 'USAGE') AND has_table_privilege(class.oid, 'SELECT') AS readable
    FROM pg_class AS class JOIN pg_namespace AS space ON space.oid = class.relnamespace
    WHERE space.nspname = 'ledger' AND class.relname = 'migration'`)
  const number = readable
    ? await pool.oneFirst(
        sql.type(z.object({ number: z.number() }))`SELECT max(number) AS number FROM ledger.migration`,
      )
    : 0
  refuseNewer(number, known)
  if (number < (known.at(-1)?.number ?? 0)) {
    throw new Refusal(`the database is at version ${number}, this code needs ${known.at(-1)?.number}: npm run migrate`)
  }
}

async function migrateLedger(client: pg.Client): Promise<string[]> {
  const known = await readFolder()
  await client.query(`
    CREATE SCHEMA IF NOT EXISTS ledger;
    CREATE TABLE IF NOT EXISTS ledger.migration (
      number integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
    )`)
  const { rows } = await client.query<{ max: number }>('SELECT coalesce(max(number), 0) AS max FROM ledger.migration')
  const at = rows[0]?.max ?? 0
  refuseNewer(at, known)

  const pending = known.filter((migration) => migration.number > at)
  for (const { number, name } of pending) {
    const text = await readFile(new URL(name, FOLDER), 'utf8')
    await client.query('BEGIN')
    await client.query('INSERT INTO ledger.migration (number, name) VALUES ($1, $2)', [number, name])
    await client.query(text)
    await client.query('COMMIT')
  }
  return pending.map((migration) => migration.name)
}

async function readFolder(): Promise<Migration[]> {
  const names = (await readdir(FOLDER)).filter((name) => /^\d{4}_.*\.sql$/.test(name)).sort()
  return names.map((name) => ({ number: Number(name.slice(0, 4)), name }))
}

function refuseNewer(at: number, known: Migration[]): void {
  const newest = known.at(-1)?.number ?? 0
  if (at <= newest) return
  throw new Refusal(
    `the database is at version ${at}, newer than this code, which knows versions up to ${newest}: ` +
      'run the release that migrated it, or a later one',
  )
}

async function refuseOldPostgres(client: pg.Client): Promise<void> {
  const { rows } = await client.query<{ server_version_num: string }>('SHOW server_version_num')
  const major = Math.floor(Number(rows[0]?.server_version_num) / 10_000)
  if (major < 15) throw new Error(`the database is Postgres ${major}; Transfer needs 15 to 18`)
}

async function main(): Promise<void> {
  const { DATABASE_URL, REDIS_URL } = readSettings()
  if (!DATABASE_URL)
    throw new Error('DATABASE_URL is not set: nothing to migrate (npm start migrates its own database)')
  const applied = await migrate(DATABASE_URL, { queue: !REDIS_URL })
  console.log(applied.length > 0 ? `applied ${applied.join(', ')}` : 'up to date')
}

if (import.meta.main) {
  await main().catch((error: unknown) => {
    console.error(error instanceof Error ? error.message : error)
    process.exitCode = 1
  })
}
