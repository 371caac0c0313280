/*
 * When a store is away: 503 within a second, nothing accepted is lost, and the service recovers by itself. Whichever
 * store it is, and whether it refuses, cuts, hangs or turns away.
 */
import { randomUUID } from 'node:crypto'
import test, { type ExecutionContext } from 'ava'
import { transferId } from '../src/transfer.ts'
import { type Answer, type Client, createClient } from './client.ts'
import { type Backend, backends, createDatabase, type Service, startService, until } from './harness.ts'
import { type StoreProxy, startProxy } from './proxy.ts'
import { type OwnRedis, startOwnRedis } from './redis.ts'
import { administer, databaseUrl } from './server.ts'

/** The promise, and what a machine that is busy with other tests may add to it. */
const PROMISED_MS = 1000
const MARGIN_MS = 500

type Timed = Answer & { took_ms: number }

async function timed(request: Promise<Answer>): Promise<Timed> {
  const began_ms = performance.now()
  return { ...(await request), took_ms: performance.now() - began_ms }
}

/** All at once, as clients do. */
async function expect503(t: ExecutionContext, requests: Record<string, Promise<Answer>>): Promise<void> {
  const answers = await Promise.all(
    Object.entries(requests).map(async ([name, made]) => [name, await timed(made)] as const),
  )
  for (const [name, { status, headers, body, took_ms }] of answers) {
    t.is(status, 503, name)
    t.is(body.type, '/problems/unavailable', name)
    t.regex(headers.get('Retry-After') ?? '', /^[1-9]\d*$/, name)
    t.true(took_ms < PROMISED_MS + MARGIN_MS, `${name} took ${took_ms} ms`)
  }
}

async function expectStatus(t: ExecutionContext, status: number, requests: Record<string, Promise<Answer>>) {
  for (const [name, made] of Object.entries(requests)) t.is((await made).status, status, name)
}

const isReady = (http: Client) => async () => (await http.get('/health/ready')).status === 200

/** Every transfer of the ledger, and no id twice. */
async function recorded(pool: Pick<Service['pool'], 'query'>): Promise<string[]> {
  const { rows } = await pool.query('SELECT id FROM ledger.transfer ORDER BY id')
  return rows.map((row) => row.id)
}

async function untilDecided(t: ExecutionContext, service: Service, ids: readonly string[]): Promise<void> {
  await until(
    async () => {
      const { rows } = await service.pool.query('SELECT id FROM ledger.transfer WHERE id = ANY ($1)', [ids])
      return rows.length >= ids.length
    },
    { timeout_ms: 40_000 },
  )
  const all = await recorded(service.pool)
  t.is(all.length, new Set(all).size)
}

type Accounts = { source: string; destination: string }

async function openTwo(http: Client): Promise<Accounts> {
  return { source: await http.open('1000'), destination: await http.open() }
}

const keyed = (http: Client, accounts: Accounts, key: string, prefer: Record<string, string> = {}) =>
  http.post('/transfers', { ...accounts, amount: '1' }, { 'Idempotency-Key': key, ...prefer })

/**
 * Clients that each submit under a new key again and again, repeating what was not accepted, until told to stop.
 *
 * @returns on stop, the ids of all that was accepted, and the statuses that were seen.
 */
function load(http: Client, accounts: Accounts, clients: number) {
  const accepted: string[] = []
  const seen = new Map<number, number>()
  let going = true
  const running = Array.from({ length: clients }, async (_, client) => {
    for (let number = 0; going; number++) {
      const key = `${client}/${number}`
      for (;;) {
        const { status } = await keyed(http, accounts, key)
        seen.set(status, (seen.get(status) ?? 0) + 1)
        if (status === 200 || status === 202) break
      }
      accepted.push(transferId(accounts.source, key))
    }
  })
  const stop = async () => {
    going = false
    await Promise.all(running)
    return { accepted, seen }
  }
  return { accepted, seen, stop }
}

/** Everything accepted is decided once, and the money is where it should be. */
async function expectBooks(t: ExecutionContext, service: Service, accounts: Accounts, accepted: string[]) {
  await untilDecided(t, service, accepted)
  const { rows } = await service.pool.query(
    `SELECT count(*) AS lines, count(DISTINCT id) AS ids, min(index) AS first, max(index) AS last,
       count(*) FILTER (WHERE reason IS NULL) AS posted
     FROM ledger.transfer WHERE source = $1`,
    [accounts.source],
  )
  const { lines, ids, first, last, posted } = rows[0]
  t.deepEqual({ lines, ids, first, last }, { lines: accepted.length, ids: accepted.length, first: 0, last: lines - 1 })
  const http = createClient(service.url)
  const { body } = await http.get(`/accounts/${accounts.destination}/balance`)
  t.is(body.balance, String(posted))
}

// ---- Redis

/** With a Redis of its own; where there is none on this machine, the Postgres half below still runs. */
function testRedis(title: string, run: (t: ExecutionContext, redis: OwnRedis) => Promise<void>): void {
  if (!backends.includes('redis')) return
  test.serial(title, async (t) => {
    const redis = await startOwnRedis()
    if (!redis) {
      t.log('no redis-server or valkey-server on this machine: skipped')
      t.pass()
      return
    }
    try {
      await run(t, redis)
    } finally {
      redis.thaw()
      await redis.remove()
    }
  })
}

const onRedis = (redis: OwnRedis, workers = 1) =>
  startService({ backend: 'redis', workers, settings: { REDIS_URL: redis.url } })

testRedis('a Redis that is killed costs 503s until it is back, and nothing that was accepted', async (t, redis) => {
  const service = await onRedis(redis)
  const http = createClient(service.url)
  const accounts = await openTwo(http)
  const decided = await http.transfer(accounts.source, accounts.destination, '1')
  await service.stopWorkers()

  const singles = await Promise.all(
    Array.from({ length: 20 }, (_, number) => keyed(http, accounts, `single ${number}`)),
  )
  const batch = await http.post('/transfers/batch', {
    transfers: Array.from({ length: 30 }, (_, number) => ({ ...accounts, amount: '1', key: `batch ${number}` })),
  })
  t.true([...singles, batch].every(({ status }) => status === 202))
  const accepted = [...singles.map(({ body }) => String(body.id)), ...(batch.body.ids ?? [])]
  const before = await recorded(service.pool)

  await redis.kill()
  const [single] = singles
  const newcomer = randomUUID()
  for (let round = 0; round < 2; round++) {
    await expect503(t, {
      keyed: keyed(http, accounts, 'refused'),
      unkeyed: http.post('/transfers', { ...accounts, amount: '1' }),
      waiting: keyed(http, accounts, 'refused too', { Prefer: 'wait=10' }),
      batch: http.post('/transfers/batch', { transfers: [{ ...accounts, amount: '1', key: 'refused as well' }] }),
      account: http.post('/accounts', { id: newcomer, balance: '5' }),
      queued: http.get(`/transfers/${single?.body.id}`),
      hinted: http.get(single?.headers.get('Location') ?? ''),
      job: http.get(`/jobs/${single?.body.job}`),
      ready: http.get('/health/ready'),
    })
    // What needs no queue is served.
    await expectStatus(t, 200, {
      decided: http.get(`/transfers/${decided.id}`),
      balance: http.get(`/accounts/${accounts.source}/balance`),
      statement: http.get(`/accounts/${accounts.source}/transfers`),
    })
  }
  t.is((await http.get('/health')).status, 204)
  t.deepEqual((await http.get('/health/ready')).body.down, ['queue'])
  t.deepEqual(await recorded(service.pool), before)

  await redis.start()
  await until(isReady(http))
  for (const id of accepted) t.is((await http.get(`/transfers/${id}`)).body.status, 'queued')
  await service.startWorker()
  await untilDecided(t, service, accepted)
  const repeated = await keyed(http, accounts, 'refused', { Prefer: 'wait=20' })
  t.is(repeated.body.status, 'posted')
  const opened = await http.post('/accounts', { id: newcomer, balance: '5' }, { Prefer: 'wait=20' })
  t.is(opened.status, 201)
  t.is((await http.get(`/accounts/${newcomer}/balance`)).body.balance, '5')
  t.is((await http.get(`/accounts/${accounts.destination}/balance`)).body.balance, String(accepted.length + 2))
  await service.stop()
})

testRedis('a Redis that hangs costs 503s until it moves again, and nothing twice', async (t, redis) => {
  const service = await onRedis(redis)
  const http = createClient(service.url)
  const accounts = await openTwo(http)
  const before = await recorded(service.pool)

  redis.freeze()
  const keys = Array.from({ length: 20 }, (_, number) => `key ${number}`)
  for (let round = 0; round < 2; round++) {
    await expect503(t, {
      ...Object.fromEntries(keys.map((key) => [key, keyed(http, accounts, key)])),
      batch: http.post('/transfers/batch', { transfers: keys.map((key) => ({ ...accounts, amount: '1', key })) }),
      transfer: http.get(`/transfers/${randomUUID()}`),
      job: http.get(`/jobs/${randomUUID()}`),
      ready: http.get('/health/ready'),
    })
  }
  t.is((await http.get(`/accounts/${accounts.source}/balance`)).status, 200)
  t.deepEqual(await recorded(service.pool), before)

  // What was given up may yet be carried out, and is repeated besides.
  redis.thaw()
  await until(isReady(http))
  const accepted: string[] = []
  for (const key of keys) {
    const { body } = await keyed(http, accounts, key, { Prefer: 'wait=20' })
    t.is(body.status, 'posted')
    accepted.push(String(body.id))
  }
  await expectBooks(t, service, accounts, accepted)
  await service.stop()
})

testRedis('a Redis that is killed again and again under load loses nothing and repeats nothing', async (t, redis) => {
  const service = await onRedis(redis, 2)
  const http = createClient(service.url)
  const accounts = await openTwo(http)
  const { accepted, seen, stop } = load(http, accounts, 8)
  for (let round = 1; round <= 3; round++) {
    const enough = accepted.length + 50
    await until(() => accepted.length >= enough, { timeout_ms: 30_000 })
    const refused = seen.get(503) ?? 0
    await redis.kill()
    await until(() => (seen.get(503) ?? 0) >= refused + 20)
    await redis.start()
  }
  const enough = accepted.length + 50
  await until(() => accepted.length >= enough, { timeout_ms: 30_000 })
  await stop()
  t.deepEqual(
    [...seen.keys()].filter((status) => ![200, 202, 503].includes(status)),
    [],
  )
  await expectBooks(t, service, accounts, accepted)
  await service.stop()
})

testRedis('a service that is started before its Redis serves as soon as that is there', async (t, redis) => {
  await redis.kill()
  const service = await onRedis(redis)
  const http = createClient(service.url)
  await expect503(t, { ready: http.get('/health/ready') })
  await redis.start()
  await until(isReady(http))
  await http.open('5')
  await service.stop()
})

// ---- Postgres

/** How a database goes away, and comes back. */
type Trouble = {
  name: string
  begin(proxy: StoreProxy, service: Service): Promise<void>
  end(proxy: StoreProxy, service: Service): Promise<void>
}

const troubles: Trouble[] = [
  { name: 'is down', begin: (proxy) => proxy.refuse(), end: (proxy) => proxy.restore() },
  { name: 'hangs', begin: async (proxy) => proxy.stall(), end: (proxy) => proxy.restore() },
  {
    name: 'turns everyone away',
    begin: async (proxy, service) => {
      await allowConnections(service, false)
      proxy.cut()
    },
    end: (_proxy, service) => allowConnections(service, true),
  },
]

async function allowConnections({ databaseUrl: url }: Service, allowed: boolean): Promise<void> {
  const name = new URL(url).pathname.slice(1)
  await administer(databaseUrl(url, 'postgres'), (client) =>
    client.query(`ALTER DATABASE ${name} ALLOW_CONNECTIONS ${allowed}`),
  )
}

async function behindProxy(
  backend: Backend,
  run: (proxy: StoreProxy, service: Service) => Promise<void>,
): Promise<void> {
  const database = await createDatabase()
  const proxy = await startProxy(database.url)
  const service = await startService({ backend, database: database.url, settings: { DATABASE_URL: proxy.url } })
  try {
    await run(proxy, service)
  } finally {
    await proxy.restore()
    await allowConnections(service, true)
    await service.stop()
    await proxy.close()
    await database.drop()
  }
}

for (const backend of backends) {
  for (const { name, begin, end } of troubles) {
    test.serial(`${backend}: a database that ${name} costs 503s until it is back, and nothing that was accepted`, (t) =>
      behindProxy(backend, async (proxy, service) => {
        const http = createClient(service.url)
        const accounts = await openTwo(http)
        const decided = await http.transfer(accounts.destination, accounts.source, '1')

        // The worker has these in hand, and cannot decide them while we hold the claim of their source.
        const session = await service.pool.connect()
        const claim = 'pg_advisory_lock(uuid_hash_extended($1, 0))'
        await session.query(`SELECT ${claim}`, [accounts.source])
        const answers = await Promise.all(
          Array.from({ length: 10 }, (_, number) => keyed(http, accounts, `before ${number}`)),
        )
        t.true(answers.every(({ status }) => status === 202))
        const accepted = answers.map(({ body }) => String(body.id))
        const before = await recorded(service.pool)

        await begin(proxy, service)
        const newcomer = randomUUID()
        for (let round = 0; round < 2; round++) {
          await expect503(t, {
            keyed: keyed(http, accounts, 'refused'),
            waiting: keyed(http, accounts, 'refused too', { Prefer: 'wait=10' }),
            batch: http.post('/transfers/batch', { transfers: [{ ...accounts, amount: '1', key: 'refused as well' }] }),
            account: http.post('/accounts', { id: newcomer, balance: '5' }),
            decided: http.get(`/transfers/${decided.id}`),
            queued: http.get(answers[0]?.headers.get('Location') ?? ''),
            look: http.get(`/accounts/${accounts.source}`),
            balance: http.get(`/accounts/${accounts.source}/balance`),
            past: http.get(`/accounts/${accounts.source}/balance?at=2020-01-01T00:00:00Z`),
            statement: http.get(`/accounts/${accounts.source}/transfers`),
            ready: http.get('/health/ready'),
          })
        }
        t.is((await http.get('/health')).status, 204)
        const { down } = (await http.get('/health/ready')).body
        t.deepEqual(down, backend === 'postgres' ? ['database', 'queue'] : ['database'])
        await session.query('SELECT pg_advisory_unlock_all()')
        t.deepEqual(await recorded(session), before)
        session.release()

        await end(proxy, service)
        await until(isReady(http))
        await untilDecided(t, service, accepted)
        const repeated = await keyed(http, accounts, 'refused', { Prefer: 'wait=20' })
        t.is(repeated.body.status, 'posted')
        await until(async () =>
          [201, 409].includes((await http.post('/accounts', { id: newcomer, balance: '5' })).status),
        )
        await until(async () => (await http.get(`/accounts/${newcomer}/balance`)).body.balance === '5')
        const keys = [...Array.from({ length: 10 }, (_, number) => `before ${number}`), 'refused']
        for (const key of keys) {
          const { status, headers } = await keyed(http, accounts, key)
          t.is(status, 200)
          t.is(headers.get('Idempotent-Replayed'), 'true')
        }
      }),
    )
  }

  test.serial(`${backend}: connections to the database that are cut under load lose nothing and repeat nothing`, (t) =>
    behindProxy(backend, async (proxy, service) => {
      const http = createClient(service.url)
      await service.startWorker()
      const accounts = await openTwo(http)
      const { accepted, seen, stop } = load(http, accounts, 8)
      for (const trouble of [
        async () => proxy.cut(),
        () =>
          service.pool.query(`
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()`),
        async () => {
          await proxy.refuse()
          await until(() => (seen.get(503) ?? 0) > 20)
          await proxy.restore()
        },
        async () => proxy.cut(),
      ]) {
        const enough = accepted.length + 50
        await until(() => accepted.length >= enough, { timeout_ms: 30_000 })
        await trouble()
      }
      const enough = accepted.length + 50
      await until(() => accepted.length >= enough, { timeout_ms: 30_000 })
      await stop()
      t.deepEqual(
        [...seen.keys()].filter((status) => ![200, 202, 503].includes(status)),
        [],
      )
      await expectBooks(t, service, accounts, accepted)
    }),
  )

  test.serial(`${backend}: connections to the database that die unnoticed are replaced`, (t) =>
    behindProxy(backend, async (proxy, service) => {
      const http = createClient(service.url)
      const accounts = await openTwo(http)
      await keyed(http, accounts, 'before', { Prefer: 'wait=20' })
      proxy.lose()
      await until(isReady(http), { timeout_ms: 20_000 })
      const answer = await until(
        async () => {
          const { status, body } = await keyed(http, accounts, 'after', { Prefer: 'wait=5' })
          return status === 200 && body
        },
        { timeout_ms: 20_000 },
      )
      t.is(answer.status, 'posted')
    }),
  )

  test.serial(
    `${backend}: a service that is started before its database serves as soon as that is there`,
    async (t) => {
      const database = await createDatabase()
      const proxy = await startProxy(database.url)
      await proxy.refuse()
      const starting = startService({ backend, database: database.url, settings: { DATABASE_URL: proxy.url } })
      await proxy.restore()
      const service = await starting
      const http = createClient(service.url)
      await until(isReady(http))
      await http.open('5')
      t.pass()
      await service.stop()
      await proxy.close()
      await database.drop()
    },
  )

  test.serial(`${backend}: more submissions than fit into memory are turned away at once`, async (t) => {
    const service = await startService({ backend, workers: 0, settings: { SUBMISSION_LIMIT: 10 } })
    const http = createClient(service.url)
    const accounts = { source: randomUUID(), destination: randomUUID() }
    const submit = (size: number) =>
      timed(
        http.post('/transfers/batch', {
          transfers: Array.from({ length: size }, () => ({ ...accounts, amount: '1' })),
        }),
      )
    const { status, headers, body, took_ms } = await submit(11)
    t.is(status, 503)
    t.is(body.type, '/problems/overloaded')
    t.regex(headers.get('Retry-After') ?? '', /^[1-9]\d*$/)
    t.true(took_ms < PROMISED_MS + MARGIN_MS)
    t.is((await submit(10)).status, 202)
    await service.startWorker()
    await until(async () => (await recorded(service.pool)).length === 10)
    await service.stop()
  })

  test.serial(`${backend}: a queue that is too deep turns submissions away until it is worked off`, async (t) => {
    const service = await startService({ backend, workers: 0, settings: { QUEUE_LIMIT: 3 } })
    const http = createClient(service.url)
    const accounts = { source: randomUUID(), destination: randomUUID() }
    const accepted: string[] = []
    const turnedAway = await until(async () => {
      const answer = await timed(http.post('/transfers', { ...accounts, amount: '1' }))
      if (answer.status === 202) accepted.push(String(answer.body.id))
      return answer.status !== 202 && answer
    })
    t.is(turnedAway.status, 503)
    t.is(turnedAway.body.type, '/problems/overloaded')
    t.regex(turnedAway.headers.get('Retry-After') ?? '', /^[1-9]\d*$/)
    t.true(turnedAway.took_ms < PROMISED_MS + MARGIN_MS)
    // To look is not to submit.
    t.is((await http.get(`/transfers/${accepted[0]}`)).body.status, 'queued')

    await service.startWorker()
    const late = await until(async () => {
      const { status, body } = await http.post('/transfers', { ...accounts, amount: '1' })
      return status === 202 && body
    })
    accepted.push(String(late.id))
    await until(async () => (await recorded(service.pool)).length === accepted.length)
    t.deepEqual(await recorded(service.pool), [...accepted].sort())
    await service.stop()
  })
}
