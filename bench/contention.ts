/*
 * Part contention: many posting at once
 *
 * 16 workers' posting (one call at a time each, without HTTP and queue) on 50 accounts, against one alone: each keeps 1,000
 * transfers between these accounts under way. Every source is wanted by all of them all the time. Whoever waits for a
 * lock here forms a convoy; whoever tries and goes on with something else should lose little.
 */
import { randomUUID } from 'node:crypto'
import { pino } from 'pino'
import { migrate } from '../src/db/migrate.ts'
import { openPool } from '../src/db/pool.ts'
import { createCloser } from '../src/worker/closing.ts'
import { createPoster } from '../src/worker/posting.ts'
import type { Bench } from './main.ts'
import type { Result, Row } from './report.ts'
import { perSecond } from './run.ts'
import { createDatabase, onDatabase } from './stage.ts'
import { watchLocks } from './watch.ts'
import { AMOUNT, openAccounts, SHAPES } from './workload.ts'

const ACCOUNTS = 50
const CHUNK = 250
const CHUNKS_UNDER_WAY = 4

export async function runContention(bench: Bench): Promise<Result> {
  const seconds = bench.options.seconds ?? (bench.full ? 10 : 2)
  const databaseUrl = await createDatabase(bench.stage)
  await migrate(databaseUrl, { queue: false })
  const accounts = await onDatabase(databaseUrl, (client) => openAccounts(client, ACCOUNTS))
  const rows: Row[] = []
  const faults: string[] = []
  await postFor(databaseUrl, accounts, 1, 1)
  for (const callers of [1, 16]) {
    const locks = await watchLocks(databaseUrl)
    const decided_per_s = await postFor(databaseUrl, accounts, callers, seconds)
    const { deadlocks, lock_waits } = await locks.stop()
    rows.push({ callers, accounts: ACCOUNTS, decided_per_s, deadlocks, lock_waits })
    if (deadlocks > 0) faults.push(`${deadlocks} deadlocks`)
    bench.say(`${callers} callers: ${decided_per_s.toLocaleString('en')} decided/s, ${lock_waits} lock waits seen`)
  }
  faults.push(...(await bench.checkBooks(databaseUrl)))
  return { part: 'contention', workload: 'posting without HTTP, all on the same 50 accounts', rows, faults }
}

async function postFor(databaseUrl: string, accounts: string[], callers: number, seconds: number): Promise<number> {
  const log = pino({ level: 'warn' })
  const pools = await Promise.all(
    Array.from({ length: callers }, () => openPool({ databaseUrl, connections: 2, timeout_ms: 30_000, log })),
  )
  const posters = pools.map((pool) =>
    createPoster({ pool, batchSize: 500, concurrency: 1, orderClosing: createCloser(pool, log), log }),
  )
  const began_ms = performance.now()
  const end_ms = began_ms + 1000 * seconds
  let decided = 0
  await Promise.all(
    posters.flatMap((poster) =>
      Array.from({ length: CHUNKS_UNDER_WAY }, async () => {
        while (performance.now() < end_ms) {
          const chunk = Array.from({ length: CHUNK }, () => ({
            id: randomUUID(),
            ...SHAPES.uniform(accounts),
            amount: AMOUNT,
          }))
          const answers = await poster.post(chunk)
          decided += answers.length
        }
      }),
    ),
  )
  const rate = perSecond(decided, performance.now() - began_ms)
  await Promise.all(pools.map((pool) => pool.end()))
  return rate
}
