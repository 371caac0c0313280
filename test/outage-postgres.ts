/*
 * While Postgres is away, on both backends: 503 within a second, nothing accepted is lost, and the service recovers by
 * itself, whether the database refuses, cuts, hangs, turns away or forgets its connections.
 */
import { randomUUID } from 'node:crypto'
import test from 'ava'
import { type Client, createClient, patiently } from './support/client.ts'
import { type Backend, backends, createDatabase, type Service, startService, until } from './support/harness.ts'
import {
  expect503,
  expectBooks,
  isReady,
  keyed,
  load,
  MARGIN,
  openTwo,
  recorded,
  untilDecided,
  untilDown,
} from './support/load.ts'
import { type StoreProxy, startProxy } from './support/proxy.ts'
import { administer, databaseUrl } from './support/server.ts'

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
    proxy.cut()
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
        const [http, raw] = [createClient(service.url), createClient(service.url, { patient: false })]
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
        await expect503(t, () => ({
          keyed: keyed(raw, accounts, 'refused'),
          waiting: keyed(raw, accounts, 'refused too', { Prefer: 'wait=10' }),
          batch: raw.post('/transfers/batch', { transfers: [{ ...accounts, amount: '1', key: 'refused as well' }] }),
          account: raw.post('/accounts', { id: newcomer, balance: '5' }),
          decided: raw.get(`/transfers/${decided.id}`),
          queued: raw.get(answers[0]?.headers.get('Location') ?? ''),
          look: raw.get(`/accounts/${accounts.source}`),
          balance: raw.get(`/accounts/${accounts.source}/balance`),
          past: raw.get(`/accounts/${accounts.source}/balance?at=2020-01-01T00:00:00Z`),
          statement: raw.get(`/accounts/${accounts.source}/transfers`),
          ready: raw.get('/health/ready'),
        }))
        t.is((await http.get('/health')).status, 204)
        await untilDown(service.url, backend === 'postgres' ? ['database', 'queue'] : ['database'])
        await session.query('SELECT pg_advisory_unlock_all()')
        t.deepEqual(await recorded(session), before)
        session.release()

        await end(proxy, service)
        await until(isReady(service.url))
        await untilDecided(t, service, accepted)
        const repeated = await keyed(http, accounts, 'refused', { Prefer: 'wait=20' })
        t.is(repeated.body.status, 'posted')
        const opened = await http.post('/accounts', { id: newcomer, balance: '5' })
        t.true(opened.status === 201 || opened.status === 409)
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

  // Not serial: mostly waits until locks of jobs run out.
  test(`${backend}: connections to the database that are cut under load lose nothing and repeat nothing`, (t) =>
    behindProxy(backend, async (proxy, service) => {
      await service.startWorker()
      const accounts = await openTwo(createClient(service.url))
      const { accepted, seen, stop } = load(t, service.url, accounts, 8)
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
        await until(() => accepted.length >= enough)
        await trouble()
      }
      const enough = accepted.length + 50
      await until(() => accepted.length >= enough)
      await stop()
      t.deepEqual(
        [...seen.keys()].filter((status) => ![200, 202, 503].includes(status)),
        [],
      )
      await expectBooks(t, service, accounts, accepted)
    }))

  test.serial(`${backend}: connections to the database that die unnoticed are replaced by the API`, (t) =>
    behindProxy(backend, async (proxy, service) => {
      const [http, raw] = [createClient(service.url), createClient(service.url, { patient: false })]
      const accounts = await openTwo(http)
      const look = (client: Client) =>
        Promise.all(Array.from({ length: 20 }, () => client.get(`/accounts/${accounts.source}/transfers`)))
      // So many at once that every connection of the pool is open and in use.
      t.true((await look(http)).every(({ status }) => status === 200))
      proxy.lose()
      await until(async () => (await look(raw)).every(({ status }) => status === 200))
      // An attempt that was answered 503 may be decided by now.
      await until(async () => [200, 202].includes((await keyed(raw, accounts, 'after')).status))
      t.pass()
    }),
  )

  // With the queue in Postgres, the queue's own connections would be lost as well.
  if (backend === 'redis') {
    test.serial(`${backend}: a worker whose connections all die unnoticed decides again within 10 s`, async (t) => {
      const database = await createDatabase()
      t.teardown(database.drop)
      const proxy = await startProxy(database.url)
      t.teardown(proxy.close)
      // One transfer a call, so that several calls are made at once.
      const settings = { DATABASE_URL: proxy.url, BATCH_SIZE: 1, POSTING_CONCURRENCY: 4 }
      const service = await startService({ backend, database: database.url, settings })
      t.teardown(service.stop)
      const http = createClient(service.url)
      const sources = await Promise.all(Array.from({ length: 8 }, () => http.open('1000')))
      const destination = await http.open()
      const transfers = sources.flatMap((source) => Array(20).fill({ source, destination, amount: '1' }))
      const first = await patiently(() => http.post('/transfers/batch', { transfers }))
      await untilDecided(t, service, first.body.ids ?? [])
      proxy.lose()
      const lost_ms = performance.now()
      // One, which would try one connection after the other.
      const second = await patiently(() => http.post('/transfers/batch', { transfers: transfers.slice(0, 1) }))
      await untilDecided(t, service, second.body.ids ?? [])
      const took_ms = performance.now() - lost_ms
      t.log(`decided again after ${Math.round(took_ms)} ms`)
      t.true(took_ms < 10_000 * MARGIN, `took ${took_ms} ms`)
    })
  }

  test.serial(
    `${backend}: a service that is started before its database serves as soon as that is there`,
    async (t) => {
      const database = await createDatabase()
      t.teardown(database.drop)
      const proxy = await startProxy(database.url)
      t.teardown(proxy.close)
      proxy.stall()
      const starting = startService({ backend, database: database.url, settings: { DATABASE_URL: proxy.url } })
      // It has tried, and fails.
      await until(() => proxy.connections() > 0)
      proxy.cut()
      await proxy.restore()
      const service = await starting
      t.teardown(service.stop)
      const http = createClient(service.url)
      await until(isReady(service.url))
      t.truthy(await http.open('5'))
    },
  )
}
