/*
 * Part limits: what this machine could do at most
 *
 * Rows: bare multi-row inserts of 500 transfers and their credits into copies of the ledger's tables, with the same
 * constraints and indexes, on two connections, checking nothing. And single transfers, one commit each, on 16.
 * Requests: the same HTTP framework answering validated POSTs on 64 connections without doing anything.
 */
import { randomUUID } from 'node:crypto'
import type pg from 'pg'
import { migrate } from '../src/db/migrate.ts'
import { startNothing } from './baseline.ts'
import type { Bench } from './main.ts'
import type { Result, Row } from './report.ts'
import { perSecond } from './run.ts'
import { createDatabase, dropDatabase, onDatabase } from './stage.ts'
import { AMOUNT, transferRequests } from './workload.ts'

export async function runLimits(bench: Bench): Promise<Result> {
  const seconds = bench.options.seconds ?? (bench.full ? 10 : 2)
  const rows: Row[] = []
  for (const [connections, batch] of [
    [2, 500],
    [16, 1],
  ] as const) {
    const rows_per_s = await insertBare(bench, connections, batch, seconds)
    rows.push({ limit: `inserts of ${batch}`, connections, per_s: rows_per_s })
    bench.say(`bare inserts of ${batch} on ${connections} connections: ${rows_per_s.toLocaleString('en')} transfers/s`)
  }

  const nothing = await startNothing()
  const accounts = Array.from({ length: 1000 }, () => randomUUID() as string)
  const requests = transferRequests('uniform', accounts)
  const spec = { url: nothing.url, connections: 64, requests }
  await bench.load.run({ ...spec, seconds: 2 })
  const { ok, first_at, last_at } = await bench.load.run({ ...spec, seconds })
  await nothing.stop()
  const requests_per_s = perSecond(ok, last_at - first_at)
  rows.push({ limit: 'requests that do nothing', connections: 64, per_s: requests_per_s })
  bench.say(`requests that do nothing: ${requests_per_s.toLocaleString('en')}/s`)
  return { part: 'limits', workload: 'bare inserts into copies of the tables; POSTs that do nothing', rows, faults: [] }
}

const COPIES = `
  CREATE SCHEMA bare;
  CREATE TABLE bare.transfer (LIKE ledger.transfer INCLUDING ALL);
  CREATE TABLE bare.credit (LIKE ledger.credit INCLUDING ALL)`

const INSERT = `
  WITH transfer AS (
    INSERT INTO bare.transfer (source, index, id, destination, amount, spent, recorded_at)
    SELECT *, now() FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::uuid[], $5::numeric[], $6::numeric[])
  )
  INSERT INTO bare.credit (destination, source, index, amount, recorded_at)
  SELECT destination, source, index, amount, now()
  FROM unnest($1::uuid[], $2::bigint[], $4::uuid[], $5::numeric[]) AS row (source, index, destination, amount)`

async function insertBare(bench: Bench, connections: number, batch: number, seconds: number): Promise<number> {
  const databaseUrl = await createDatabase(bench.stage)
  await migrate(databaseUrl, { queue: false })
  await onDatabase(databaseUrl, (client) => client.query(COPIES))
  const began_ms = performance.now()
  const counts = await Promise.all(
    Array.from({ length: connections }, () =>
      onDatabase(databaseUrl, (client) => insertFor(client, batch, began_ms + 1000 * seconds)),
    ),
  )
  const rate = perSecond(
    counts.reduce((sum, count) => sum + count, 0),
    performance.now() - began_ms,
  )
  await dropDatabase(bench.stage, databaseUrl)
  return rate
}

/** Each connection has 1,000 chains of its own. */
async function insertFor(client: pg.Client, batch: number, end_ms: number): Promise<number> {
  const accounts = Array.from({ length: 1000 }, () => randomUUID() as string)
  const pick = (n: number) => accounts[n % accounts.length] as string
  let count = 0
  while (performance.now() < end_ms) {
    const numbers = Array.from({ length: batch }, (_, position) => count + position)
    await client.query({
      name: 'insert',
      text: INSERT,
      values: [
        numbers.map(pick),
        numbers.map((n) => Math.floor(n / accounts.length)),
        numbers.map(() => randomUUID()),
        numbers.map((n) => pick(n * 7 + 1)),
        numbers.map(() => AMOUNT),
        numbers.map((n) => AMOUNT_NUMBER * Math.floor(n / accounts.length + 1)),
      ],
    })
    count += batch
  }
  return count
}

const AMOUNT_NUMBER = Number(AMOUNT)
