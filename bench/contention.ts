/*
 * Part contention: many posting at once
 *
 * 16 workers' posting (one call at a time each, without HTTP and queue) on 50 accounts, against one alone: each keeps 1,000
 * transfers between these accounts under way. Every source is wanted by all of them all the time. Whoever waits for a
 * lock here forms a convoy; whoever tries and goes on with something else should lose little.
 * Both take turns, three times over, on connections that are warm; the medians are told.
 */
import { randomUUID } from 'node:crypto'
import { pino } from 'pino'
import { migrate } from '../src/db/migrate.ts'
import { openPool } from '../src/db/pool.ts'
import { createCloser } from '../src/worker/closing.ts'
import { createPoster, type Poster } from '../src/worker/posting.ts'
import type { Bench } from './main.ts'
import type { Result, Row } from './report.ts'
import { perSecond } from './run.ts'
import { createDatabase, onDatabase } from './stage.ts'
import { percentile } from './waiter.ts'
import { watchLocks } from './watch.ts'
import { AMOUNT, openAccounts, SHAPES } from './workload.ts'

const ACCOUNTS = 50
const CHUNK = 250
const CHUNKS_UNDER_WAY = 4
const WARM_UP_SECONDS = 1.5
const ROUNDS = 3

export async function runContention(bench: Bench): Promise<Result> {
  const seconds = bench.options.seconds ?? (bench.full ? 5 : 1)
  const databaseUrl = await createDatabase(bench.stage)
  await migrate(databaseUrl, { queue: false })
  const accounts = await onDatabase(databaseUrl, (client) => openAccounts(client, ACCOUNTS))
  const groups = await Promise.all([openCallers(databaseUrl, 1), openCallers(databaseUrl, 16)])
  // Sessions are slow at first: each meets the pages, the catalog and the plans for the first time.
  for (const { posters } of groups) await keepPosting(posters, accounts, WARM_UP_SECONDS)
  const locks = await watchLocks(databaseUrl)
  const rates = groups.map((): number[] => [])
  for (let round = 1; round <= ROUNDS; round++) {
    for (const [position, { posters }] of groups.entries()) {
      const decided_per_s = await keepPosting(posters, accounts, seconds)
      rates[position]?.push(decided_per_s)
      bench.say(`${posters.length} callers: ${decided_per_s.toLocaleString('en')} decided/s`)
    }
  }
  const { deadlocks, lock_waits } = await locks.stop()
  await Promise.all(groups.map(({ close }) => close()))
  const rows = groups.map(({ posters }, position): Row => {
    const decided_per_s = percentile(
      (rates[position] ?? []).toSorted((a, b) => a - b),
      50,
    )
    return { callers: posters.length, accounts: ACCOUNTS, decided_per_s, deadlocks, lock_waits }
  })
  const faults = await bench.checkBooks(databaseUrl)
  if (deadlocks > 0) faults.push(`${deadlocks} deadlocks`)
  return { part: 'contention', workload: 'posting without HTTP, all on the same 50 accounts', rows, faults }
}

async function openCallers(
  databaseUrl: string,
  count: number,
): Promise<{ posters: Poster[]; close: () => Promise<void> }> {
  const log = pino({ level: 'warn' })
  const pools = await Promise.all(
    Array.from({ length: count }, () => openPool({ databaseUrl, connections: 2, timeout_ms: 30_000, log })),
  )
  const posters = pools.map((pool) =>
    createPoster({ pool, batchSize: 500, concurrency: 1, orderClosing: createCloser(pool, log), log }),
  )
  return { posters, close: async () => void (await Promise.all(pools.map((pool) => pool.end()))) }
}

/** @returns decided/s. */
async function keepPosting(posters: readonly Poster[], accounts: string[], seconds: number): Promise<number> {
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
  return perSecond(decided, performance.now() - began_ms)
}
