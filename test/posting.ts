/*
 * Posting: whatever happens to the worker's calls, each transfer of each job ends decided once; and one that the database
 * can make nothing of fails alone, by name.
 */
import { randomUUID } from 'node:crypto'
import test, { type ExecutionContext } from 'ava'
import type pg from 'pg'
import type { DatabasePool } from 'slonik'
import { openPool } from '../src/db/pool.ts'
import { packTransfers } from '../src/queue.ts'
import type { Transfer } from '../src/transfer.ts'
import { createPoster, PoisonError, type Poster } from '../src/worker/posting.ts'
import { balance, balanced, balances, chain, open, post, readBooks, request } from './support/books.ts'
import {
  backends,
  captureLog,
  type LogLine,
  openAdmin,
  openPatientQueue,
  startService,
  until,
  useDatabase,
} from './support/harness.ts'
import { startProxy } from './support/proxy.ts'

type Bench = {
  url: string
  db: pg.Pool
  connect: (max?: number) => pg.Pool
  /** A worker's posting side, as many as wanted, each with a pool of its own. */
  startPoster: (options?: { batchSize?: number; databaseUrl?: string }) => Promise<Posting>
}

type Posting = Poster & {
  /** Calls of the database so far. */
  calls: () => number
  ordered: string[]
  log: LogLine[]
}

async function useBench(t: ExecutionContext): Promise<Bench> {
  const { url, connect } = await useDatabase(t)
  const startPoster: Bench['startPoster'] = async ({ batchSize = 500, databaseUrl = url } = {}) => {
    const log: LogLine[] = []
    const pool = await openPool({ databaseUrl, connections: 3, timeout_ms: 5000, log: captureLog(log) })
    t.teardown(() => pool.end())
    let calls = 0
    const counting: DatabasePool = {
      ...pool,
      one: (...query: Parameters<DatabasePool['one']>) => {
        calls += 1
        return pool.one(...query)
      },
    } as DatabasePool
    const ordered: string[] = []
    const orderClosing = (accounts: readonly string[]) => void ordered.push(...accounts)
    const poster = createPoster({ pool: counting, batchSize, concurrency: 2, orderClosing, log: captureLog(log) })
    return { ...poster, calls: () => calls, ordered, log }
  }
  return { url, db: connect(), connect, startPoster }
}

/** From each source in turn. */
function many(count: number, sources: string[], destination: string, amount = '1'): Transfer[] {
  return Array.from({ length: count }, (_, n) => request(sources[n % sources.length] as string, destination, amount))
}

const posted = (transfers: Transfer[]) => transfers.map(() => 'posted')

// What the database can make nothing of, each in a way of its own. The API lets none of these through.
const POISON: Record<string, (good: Transfer) => Transfer> = {
  'a transfer to itself': (good) => ({ ...good, destination: good.source }),
  'an amount of zero': (good) => ({ ...good, amount: '0' }),
  'an amount that is no number': (good) => ({ ...good, amount: 'a lot' }),
  'an amount with a NUL in it': (good) => ({ ...good, amount: '1\u0000' }),
  'an amount out of all bounds': (good) => ({ ...good, amount: '9'.repeat(200_000) }),
  'a source that is no UUID': (good) => ({ ...good, source: 'somebody' }),
  'a destination that is missing': (good) => ({ ...good, destination: undefined as unknown as string }),
  'an id that is no UUID': (good) => ({ ...good, id: 'mine' }),
}

for (const [what, poison] of Object.entries(POISON)) {
  test.serial(`${what} fails alone, by name, and its neighbours are decided`, async (t) => {
    const { url, db, startPoster } = await useBench(t)
    const sources = [await open(db, '10'), await open(db, '10'), await open(db, '10')]
    const destination = await open(db)
    const transfers = many(30, sources, destination)
    const culprit = poison(transfers[17] as Transfer)
    transfers[17] = culprit

    const { post, log } = await startPoster()
    const answers = await post(transfers)
    const failed = answers[17]
    t.true(failed instanceof PoisonError)
    if (failed instanceof PoisonError) {
      t.true(failed.message.startsWith(`transfer ${culprit.id}: `), failed.message)
      t.truthy(failed.cause)
    }
    t.deepEqual(answers.toSpliced(17, 1), posted(transfers.slice(1)))
    t.is(await balance(db, destination), '29')
    t.is(log.filter(({ level }) => level >= 50).length, 1, 'said once')
    await balanced(t, url)
  })
}

test.serial('the closing of who only receives is ordered after 1,000 credits, and not before', async (t) => {
  const { db, startPoster } = await useBench(t)
  const sources = await Promise.all(Array.from({ length: 40 }, () => open(db, '30')))
  const destination = await open(db)
  const { post, ordered } = await startPoster()
  await post(many(999, sources, destination))
  await post([request(sources[0] as string, destination, '1000')])
  t.deepEqual(ordered, [], 'the last of these was refused')
  await post(many(1, [sources[39] as string], destination))
  t.deepEqual(ordered, [destination])
})

test.serial('several poisoned transfers in one batch each fail, and only they', async (t) => {
  const { url, db, startPoster } = await useBench(t)
  const [source, destination] = [await open(db, '100'), await open(db)]
  const transfers = many(20, [source], destination).map((good, n) => (n % 5 === 0 ? { ...good, amount: '0' } : good))
  const { post } = await startPoster()
  const answers = await post(transfers)
  t.deepEqual(
    answers.map((answer) => (answer instanceof PoisonError ? 'poison' : answer)),
    transfers.map((_, n) => (n % 5 === 0 ? 'poison' : 'posted')),
  )
  t.is(await balance(db, destination), '16')
  await balanced(t, url)
})

test.serial(
  'a source that somebody else holds is asked for again until it is free; others do not wait for it',
  async (t) => {
    const { url, db, connect, startPoster } = await useBench(t)
    const [busy, free, destination] = [await open(db, '10'), await open(db, '10'), await open(db)]
    const other = connect()
    await other.query('BEGIN')
    await post(other, [request(busy, destination, '4')])

    const poster = await startPoster()
    let answered = false
    const held = poster.post(many(3, [busy], destination, '3')).finally(() => {
      answered = true
    })
    t.deepEqual(await poster.post(many(3, [free], destination, '3')), ['posted', 'posted', 'posted'])
    const calls = poster.calls()
    await until(() => poster.calls() > calls + 3)
    t.false(answered)

    await other.query('COMMIT')
    t.deepEqual(await held, ['posted', 'posted', 'insufficient_funds'])
    t.deepEqual(await balances(db, [busy, free, destination]), ['0', '1', '19'])
    await balanced(t, url)
  },
)

test.serial('two workers on one hot source both get through', async (t) => {
  const { url, db, startPoster } = await useBench(t)
  const [source, destination] = [await open(db, '400'), await open(db)]
  const posters = [await startPoster({ batchSize: 10 }), await startPoster({ batchSize: 10 })]
  const shares = posters.map(() => many(200, [source], destination))
  // Two jobs of the same transfers, as after a worker was taken for dead: both get the same answers.
  const twice = many(50, [source], destination)
  const answers = await Promise.all(
    posters.flatMap(({ post }, n) => [
      // One by one and all at once, as small and large jobs bring them.
      Promise.all((shares[n] ?? []).slice(0, 100).map(async (transfer) => (await post([transfer]))[0])),
      post((shares[n] ?? []).slice(100)),
      post(twice),
    ]),
  )
  t.is(answers.flat().filter((answer) => answer === 'posted').length, 400 + repeatedPosted(answers[2]))
  t.deepEqual(answers[2], answers[5])
  t.is(await balance(db, source), '0')
  t.is((await chain(db, source)).length, 450)
  await balanced(t, url)
})

const repeatedPosted = (answers: unknown[] = []) => answers.filter((answer) => answer === 'posted').length

test.serial('a long tail is told to who closes books', async (t) => {
  const { db, startPoster } = await useBench(t)
  const [source, destination] = [await open(db, '1000'), await open(db)]
  const poster = await startPoster()
  await poster.post(many(150, [source], destination))
  t.deepEqual(poster.ordered, [])
  await poster.post([request(destination, source, '1')])
  t.deepEqual(poster.ordered, [destination])
})

// A database that goes away, in the ways databases do.
type Outage = { begin: () => Promise<unknown>; end: () => Promise<unknown> }

const OUTAGES: Record<string, (t: ExecutionContext, url: string, db: pg.Pool) => Promise<Outage & { url: string }>> = {
  'cuts every connection and refuses new ones': async (t, url) => {
    const proxy = await startProxy(url)
    t.teardown(proxy.close)
    return { url: proxy.url, begin: proxy.refuse, end: proxy.restore }
  },
  'lets nobody in': async (t, url, db) => {
    const name = new URL(url).pathname.slice(1)
    const elsewhere = new URL(url)
    elsewhere.pathname = '/template1'
    const admin = openAdmin(elsewhere.href, 1)
    t.teardown(() => admin.end())
    return {
      url,
      begin: async () => {
        await admin.query(`ALTER DATABASE ${name} ALLOW_CONNECTIONS false`)
        await terminate(db)
      },
      end: () => admin.query(`ALTER DATABASE ${name} ALLOW_CONNECTIONS true`),
    }
  },
}

const OTHERS = 'WHERE datname = current_database() AND pid <> pg_backend_pid()'

async function terminate(db: pg.Pool): Promise<void> {
  await db.query(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity ${OTHERS}`)
}

for (const [how, arrange] of Object.entries(OUTAGES)) {
  test.serial(`a database that ${how} for a while loses nothing and doubles nothing`, async (t) => {
    const { url, db, startPoster } = await useBench(t)
    const sources = [await open(db, '1000'), await open(db, '1000'), await open(db, '1000')]
    const destination = await open(db)
    const outage = await arrange(t, url, db)
    const { post, calls, log } = await startPoster({ batchSize: 5, databaseUrl: outage.url })

    const transfers = many(600, sources, destination)
    const answering = Promise.all(chunks(transfers, 5).map((group) => post(group)))
    await until(async () => Number(await balance(db, destination)) > 50)
    await outage.begin()
    // What was under way when the connection broke may still come to an end.
    await until(async () => {
      const { rows } = await db.query(`SELECT count(*) FROM pg_stat_activity ${OTHERS}`)
      return rows[0].count === 0
    })
    const before = await readBooks(db)
    const failing = calls()
    await until(() => calls() > failing + 4 && log.some(({ msg }) => msg === 'posting failed, trying again'))
    t.deepEqual(await readBooks(db), before, 'nothing moves while it is away')
    t.true(before.transfer && before.transfer.length < 600, 'it went away in the middle')

    await outage.end()
    t.deepEqual((await answering).flat(), posted(transfers))
    t.is(await balance(db, destination), '600')
    await balanced(t, url)
  })
}

test.serial('connections that are ended again and again lose nothing and double nothing', async (t) => {
  const { url, db, startPoster } = await useBench(t)
  const [source, destination] = [await open(db, '1000'), await open(db)]
  const { post } = await startPoster({ batchSize: 5 })
  const transfers = many(600, [source], destination)
  let blows = 0
  let running = true
  const ending = (async () => {
    while (running) {
      await terminate(db)
      blows += 1
      // Between two blows something has to be given a chance.
      const reached = Number(await balance(db, destination))
      await until(async () => !running || Number(await balance(db, destination)) > reached)
    }
  })()
  const answers = await Promise.all(chunks(transfers, 5).map((group) => post(group)))
  running = false
  await ending
  t.log(`ended ${blows} times`)
  t.true(blows > 5)
  t.deepEqual(answers.flat(), posted(transfers))
  t.is(await balance(db, destination), '600')
  t.is((await chain(db, source)).length, 600)
  await balanced(t, url)
})

function chunks<T>(items: T[], size: number): T[][] {
  return Array.from({ length: Math.ceil(items.length / size) }, (_, n) => items.slice(n * size, (n + 1) * size))
}

for (const backend of backends) {
  test.serial(
    `${backend}: a job with a poisoned transfer fails by its name, and all others of it are decided`,
    async (t) => {
      const service = await startService({ backend })
      t.teardown(service.stop)
      const { pool: db, settings } = service
      const queue = await openPatientQueue(settings)
      t.teardown(() => queue.close())
      const [source, destination] = [await open(db, '100'), await open(db)]
      const good = many(9, [source], destination)
      const poison = request(source, source, '1')
      const bad = await queue.add('post', packTransfers([...good.slice(0, 5), poison, ...good.slice(5)]), {
        attempts: 1,
        jobId: randomUUID(),
      })
      const next = many(5, [source], destination)
      const job = await queue.add('post', packTransfers(next), { jobId: randomUUID() })

      await until(async () => (await queue.getJobState(job.id ?? '')) === 'completed')
      await until(async () => (await queue.getJobState(bad.id ?? '')) === 'failed')
      const failed = await queue.getJob(bad.id ?? '')
      t.true(failed?.failedReason?.includes(poison.id), failed?.failedReason)
      t.is(await balance(db, destination), '14')
      t.is((await chain(db, source)).length, 14)
      await balanced(t, service.databaseUrl)
    },
  )

  test.serial(
    `${backend}: a worker that is stopped finishes what it has in hand, and another does the rest`,
    async (t) => {
      const service = await startService({ backend, workers: 0, settings: { WORKER_JOBS: 2 } })
      t.teardown(service.stop)
      const { pool: db, settings } = service
      const queue = await openPatientQueue(settings)
      t.teardown(() => queue.close())
      const [source, destination] = [await open(db, '1000'), await open(db)]
      const jobs = chunks(many(60, [source], destination), 2)
      for (const transfers of jobs) await queue.add('post', packTransfers(transfers), { jobId: randomUUID() })

      const first = await service.startWorker()
      await until(async () => Number(await balance(db, destination)) > 0)
      await first.stop()
      const counts = await queue.getJobCounts('active', 'completed', 'waiting', 'failed', 'delayed')
      t.is(counts.active, 0, 'nothing is left in hand')
      const books = await readBooks(db)
      t.is(
        books.credit?.length,
        1 + 2 * (counts.completed ?? 0),
        'what is posted is what is completed, and the funding',
      )

      await service.startWorker()
      await until(async () => ((await queue.getJobCounts('completed')).completed ?? 0) === jobs.length)
      t.is(await balance(db, destination), '60')
      t.is((await chain(db, source)).length, 60)
      await balanced(t, service.databaseUrl)
    },
  )
}
