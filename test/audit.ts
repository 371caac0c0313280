/*
 * Whatever a superuser changes in the books behind the ledger's back, the audit finds, and names the row; what it cannot
 * find is listed there, too. It finds nothing in books that nobody tampered with, at any moment, while they are written.
 *
 * Next: support/specimen.ts, the books; support/tampering.ts, what is done to them.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import anyTest, { type TestFn } from 'ava'
import type pg from 'pg'
import { type Audit, audit } from '../src/db/audit.ts'
import { RULES } from '../src/db/rule.ts'
import { balanced, open, post, request } from './support/books.ts'
import { createDatabase, type Database, openAdmin, until, useDatabase } from './support/harness.ts'
import { at, keepBooks, layOpen, type Names, putBack } from './support/specimen.ts'
import { isNamed, SWEEP, TAMPERINGS, UNFOUND } from './support/tampering.ts'

const test = anyTest as TestFn<{ database: Database; db: pg.Pool; names: Names }>

test.before(async (t) => {
  const database = await createDatabase()
  const db = openAdmin(database.url, 1)
  t.context = { database, db, names: await keepBooks(db) }
  t.log(t.context.names)
  await balanced(t, database.url)
  await layOpen(db)
})

test.after.always(async (t) => {
  const { database, db } = t.context
  await db.end()
  await database.drop()
})

type Found = Record<string, Record<string, unknown>[]>

/** The rows of each rule that is broken. */
const found = ({ checks }: Audit): Found =>
  Object.fromEntries(
    checks
      .filter(({ violations }) => violations > 0)
      .map(({ name, rows }) => [name, rows.map((row) => JSON.parse(row) as Record<string, unknown>)]),
  )

for (const [what, sql, named] of TAMPERINGS) {
  test.serial(`found: ${what}`, async (t) => {
    const { database, db, names } = t.context
    await db.query(sql(names))
    const result = found(await audit(database.url))
    await putBack(db)
    const expected = named(names)
    t.deepEqual(Object.keys(result), Object.keys(expected))
    for (const [rule, row] of Object.entries(expected)) {
      t.true(
        result[rule]?.some((candidate) => Object.entries(row).every(([field, value]) => candidate[field] === value)),
        rule,
      )
    }
    await balanced(t, database.url)
  })
}

for (const [what, sql] of UNFOUND) {
  test.serial(`not found: ${what}`, async (t) => {
    const { database, db, names } = t.context
    await db.query(sql(names))
    const result = found(await audit(database.url))
    await putBack(db)
    t.deepEqual(result, {})
  })
}

test.serial('any one field of any one row of the money, changed, is found by its row', async (t) => {
  const { database, db } = t.context
  let changes = 0
  for (const { table, column, to, blind = 'false' } of SWEEP) {
    const { rows } = await db.query<{ source: string; index: number; unseen: boolean | null }>(`
      SELECT source, index, ${blind} AS unseen
      FROM (
        SELECT source, index, reason::text, index = max(index) OVER (PARTITION BY source) AS last FROM kept.transfer
      ) AS decision
      WHERE EXISTS (
        SELECT FROM kept.${table} AS changed WHERE changed.source = decision.source AND changed.index = decision.index
      )`)
    for (const { source, index, unseen } of rows) {
      await db.query(`UPDATE ledger.${table} SET ${column} = ${to} WHERE ${at(source, index)}`)
      const result = await audit(database.url)
      await putBack(db)
      const what = `${table}.${column} = ${to} of ${source} ${index}`
      const named = Object.values(found(result))
        .flat()
        .some((row) => isNamed(row, source, index, column))
      t.is(named, !unseen, what)
      changes += 1
    }
  }
  await balanced(t, database.url)
  t.log(`${changes} changes`)
})

/** `npm run audit` as cron has it. @returns its exit code, and what it said on either stream. */
async function command(databaseUrl: string, ...words: string[]): Promise<{ code: number | null; said: string }> {
  const file = fileURLToPath(new URL('../src/db/audit.ts', import.meta.url))
  const child = spawn(process.execPath, [file, ...words], {
    env: { PATH: process.env.PATH, DATABASE_URL: databaseUrl },
  })
  let said = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (bytes) => (said += bytes))
  const [code] = (await once(child, 'close')) as [number | null]
  return { code, said }
}

test.serial('on the command line books that balance are 0, and what was checked is said', async (t) => {
  const { code, said } = await command(t.context.database.url)
  t.is(code, 0, said)
  t.regex(said, /^the books: 5 accounts, 13 transfers \(9 posted, 4 rejected\), 9 credits, 3 closings$/m)
  for (const rule of RULES) t.true(said.includes(`  ok    ${rule.name}`), rule.name)
  t.regex(said, /they balance\n$/)
})

test.serial('on the command line books that do not are 1, with the row, and how many more there are', async (t) => {
  const { database, db, names } = t.context
  await db.query(`UPDATE ledger.transfer SET spent = spent + 1 WHERE ${at(names.payer, 4)}`)
  const one = await command(database.url)
  await putBack(db)
  t.is(one.code, 1)
  t.regex(one.said, /WRONG chains .*\n {8}2 violations:\n/)
  t.true(one.said.includes(`"source": "${names.payer}"`) && one.said.includes('"expected_spent": 35.50000001'))
  t.regex(one.said, /THEY DO NOT BALANCE\n$/)

  await db.query(`
    INSERT INTO ledger.credit (destination, source, index, amount, recorded_at)
    SELECT '${names.shop}', '${names.payer}', 100 + n, 1, clock_timestamp() FROM generate_series(1, 5000) AS n`)
  const many = await command(database.url)
  await putBack(db)
  t.is(many.code, 1)
  t.regex(many.said, /5,000 violations:\n(?: {8}\{.*\}\n){10} {8}and 4,990 more\n/)
})

test.serial('on the command line what could not be audited is 2, with the reason', async (t) => {
  const { url } = t.context.database
  for (const [words, said] of [
    [['--at', 'yesterday'], /--at yesterday: must be an RFC 3339 moment such as/],
    [['--at', '2026-02-30T12:00:00Z'], /--at 2026-02-30T12:00:00Z: must be an RFC 3339 moment/],
    [['--at', '2026-01-31'], /must be an RFC 3339 moment/],
    [['--at', '9000-01-01T00:00:00Z'], /must be a moment in the past/],
    [['--at', ''], /must be an RFC 3339 moment/],
    [['--at'], /--at/],
    [['--since', '2026-01-31T12:00:00Z'], /--since/],
    [['2026-01-31T12:00:00Z'], /2026-01-31T12:00:00Z/],
  ] as const) {
    const result = await command(url, ...words)
    t.is(result.code, 2, words.join(' '))
    t.regex(result.said, /^not audited: /)
    t.regex(result.said, said)
  }
  const nobody = await command('postgres://nobody@127.0.0.1:1/nothing')
  t.is(nobody.code, 2)
  t.regex(nobody.said, /^not audited: .*ECONNREFUSED/)
  const unmigrated = await useDatabase(t, { empty: true })
  const empty = await command(unmigrated.url)
  t.is(empty.code, 2)
  t.regex(empty.said, /^not audited: /)
})

test.serial('at each moment of the past the books balance, and hold what had been recorded by then', async (t) => {
  const { database, db } = t.context
  const { rows } = await db.query<{ moment: string; transfers: number }>(`
    SELECT to_char(recorded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS moment,
      count(*) OVER (ORDER BY recorded_at) AS transfers
    FROM ledger.transfer`)
  for (const { moment, transfers } of rows) {
    const then = await audit(database.url, { at: moment })
    t.deepEqual(found(then), {}, moment)
    t.is(then.posted + then.rejected, transfers)
    t.is(then.credits, then.posted)
  }
  const before = await audit(database.url, { at: '2001-02-03T04:05:06Z' })
  t.like(before, { ok: true, accounts: 0, posted: 0, closings: 0 })
})

test.serial('--at leaves out what was tampered with later, and finds what was before', async (t) => {
  const { database, db, names } = t.context
  const { rows } = await db.query<{ moment: string }>(`
    SELECT to_char(recorded_at AT TIME ZONE 'Asia/Kolkata', 'YYYY-MM-DD"T"HH24:MI:SS.US"+05:30"') AS moment
    FROM ledger.transfer WHERE ${at(names.payer, 2)}`)
  const [row] = rows
  await db.query(`UPDATE ledger.transfer SET amount = 19 WHERE ${at(names.payer, 4)}`)
  const later = await command(database.url, '--at', row?.moment ?? '')
  await putBack(db)
  t.is(later.code, 0, later.said)
  t.regex(later.said, /^the books at \S+Z: 5 accounts, 5 transfers \(4 posted, 1 rejected\), 4 credits, 0 closings$/m)

  await db.query(`UPDATE ledger.transfer SET amount = 19 WHERE ${at(names.payer, 1)}`)
  const earlier = await command(database.url, '--at', row?.moment ?? '')
  await putBack(db)
  t.is(earlier.code, 1)
  t.true(earlier.said.includes(`"source": "${names.payer}"`))
})

test.serial('while the books are written, they balance at any moment', async (t) => {
  const { url, connect } = await useDatabase(t)
  const writers = connect(4)
  const accounts = await Promise.all(Array.from({ length: 4 }, () => open(writers, '1000')))
  let writing = true
  const seen: Audit[] = []
  const write = async (source: string, n: number) => {
    while (writing) {
      const destination = accounts[(n + 1 + Math.floor(Math.random() * 3)) % 4] as string
      await post(
        writers,
        Array.from({ length: 5 }, () => request(source, destination, '7.5')),
      )
      await writers.query('SELECT ledger.close_books($1)', [[destination]])
    }
  }
  const work = Promise.all(accounts.map(write))
  try {
    await until(async () => {
      seen.push(await audit(url))
      return seen.length >= 8 && (seen.at(-1)?.posted ?? 0) > (seen[0]?.posted ?? 0) + 100
    })
  } finally {
    writing = false
    await work
  }
  t.deepEqual(
    seen.flatMap((result) => Object.keys(found(result))),
    [],
  )
  t.log(`${seen.length} audits, of ${seen[0]?.posted} to ${seen.at(-1)?.posted} postings`)

  // And as they were at moments in between.
  const { rows } = await writers.query<{ moment: string }>(`
    SELECT to_char(recorded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS moment
    FROM ledger.transfer ORDER BY random() LIMIT 8`)
  for (const { moment } of rows) t.deepEqual(found(await audit(url, { at: moment })), {}, moment)
})
