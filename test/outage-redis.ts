/*
 * While Redis is away: 503 within a second, nothing accepted is lost, and the service recovers by itself.
 */
import { randomUUID } from 'node:crypto'
import test, { type ExecutionContext } from 'ava'
import { createClient } from './support/client.ts'
import { backends, type Service, startService, until } from './support/harness.ts'
import {
  expect503,
  expectBooks,
  expectStatus,
  isReady,
  keyed,
  load,
  openTwo,
  recorded,
  untilDecided,
  untilDown,
} from './support/load.ts'
import { type StoreProxy, startProxy } from './support/proxy.ts'
import { type OwnRedis, startOwnRedis } from './support/redis.ts'

const testIfRedis = backends.includes('redis') ? test.serial : test.serial.skip

/** With a Redis of its own, which is not the one that all tests share. */
function testRedis(title: string, run: (t: ExecutionContext, redis: OwnRedis) => Promise<void>): void {
  testIfRedis(title, async (t) => {
    const redis = await startOwnRedis()
    // TEST_REDIS_URL may name one where there is none to start.
    if (!redis) return t.pass('no redis-server or valkey-server on this machine')
    t.teardown(redis.remove)
    await run(t, redis)
  })
}

/** @param proxy to reach it through. */
async function onRedis(t: ExecutionContext, redis: OwnRedis, workers = 1, proxy?: StoreProxy): Promise<Service> {
  const settings = { REDIS_URL: proxy?.url ?? redis.url }
  const service = await startService({ backend: 'redis', workers, settings })
  t.teardown(async () => {
    // To stop well, the service needs its queue: also after a test that failed half-way.
    proxy?.cut()
    redis.thaw()
    await redis.start()
    await until(isReady(service.url))
    await service.stop()
    await proxy?.close()
  })
  return service
}

testRedis('a Redis that is killed costs 503s until it is back, and nothing that was accepted', async (t, redis) => {
  const service = await onRedis(t, redis)
  const [http, raw] = [createClient(service.url), createClient(service.url, { patient: false })]
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
  await expect503(t, () => ({
    keyed: keyed(raw, accounts, 'refused'),
    unkeyed: raw.post('/transfers', { ...accounts, amount: '1' }),
    waiting: keyed(raw, accounts, 'refused too', { Prefer: 'wait=10' }),
    batch: raw.post('/transfers/batch', { transfers: [{ ...accounts, amount: '1', key: 'refused as well' }] }),
    account: raw.post('/accounts', { id: newcomer, balance: '5' }),
    queued: raw.get(`/transfers/${single?.body.id}`),
    hinted: raw.get(single?.headers.get('Location') ?? ''),
    job: raw.get(`/jobs/${single?.body.job}`),
    ready: raw.get('/health/ready'),
  }))
  // What needs no queue is served.
  await expectStatus(t, 200, {
    decided: http.get(`/transfers/${decided.id}`),
    balance: http.get(`/accounts/${accounts.source}/balance`),
    statement: http.get(`/accounts/${accounts.source}/transfers`),
  })
  t.is((await http.get('/health')).status, 204)
  await untilDown(service.url, ['queue'])
  t.deepEqual(await recorded(service.pool), before)

  await redis.start()
  await until(isReady(service.url))
  for (const id of accepted) t.is((await http.get(`/transfers/${id}`)).body.status, 'queued')
  await service.startWorker()
  await untilDecided(t, service, accepted)
  const repeated = await keyed(http, accounts, 'refused', { Prefer: 'wait=20' })
  t.is(repeated.body.status, 'posted')
  // It exists if an attempt got through after all.
  const opened = await http.post('/accounts', { id: newcomer, balance: '5' }, { Prefer: 'wait=20' })
  t.true(opened.status === 201 || opened.status === 409)
  await until(async () => (await http.get(`/accounts/${newcomer}/balance`)).body.balance === '5')
  t.is((await http.get(`/accounts/${accounts.destination}/balance`)).body.balance, String(accepted.length + 2))
})

testRedis('a Redis that hangs costs 503s until it moves again, and nothing twice', async (t, redis) => {
  const service = await onRedis(t, redis)
  const [http, raw] = [createClient(service.url), createClient(service.url, { patient: false })]
  const accounts = await openTwo(http)
  const before = await recorded(service.pool)

  redis.freeze()
  const keys = Array.from({ length: 20 }, (_, number) => `key ${number}`)
  await expect503(t, () => ({
    ...Object.fromEntries(keys.map((key) => [key, keyed(raw, accounts, key)])),
    batch: raw.post('/transfers/batch', { transfers: keys.map((key) => ({ ...accounts, amount: '1', key })) }),
    transfer: raw.get(`/transfers/${randomUUID()}`),
    job: raw.get(`/jobs/${randomUUID()}`),
    ready: raw.get('/health/ready'),
  }))
  t.is((await http.get(`/accounts/${accounts.source}/balance`)).status, 200)
  t.deepEqual(await recorded(service.pool), before)

  // What was given up may yet be carried out, and is repeated besides.
  redis.thaw()
  await until(isReady(service.url))
  const accepted: string[] = []
  for (const key of keys) {
    const { body } = await keyed(http, accounts, key, { Prefer: 'wait=20' })
    t.is(body.status, 'posted')
    accepted.push(String(body.id))
  }
  await expectBooks(t, service, accounts, accepted)
})

testRedis('a Redis that is killed again and again under load loses nothing and repeats nothing', async (t, redis) => {
  const service = await onRedis(t, redis, 2)
  const http = createClient(service.url)
  const accounts = await openTwo(http)
  const { accepted, seen, stop } = load(t, service.url, accounts, 8)
  for (let round = 1; round <= 3; round++) {
    const enough = accepted.length + 50
    await until(() => accepted.length >= enough)
    const refused = seen.get(503) ?? 0
    await redis.kill()
    await until(() => (seen.get(503) ?? 0) >= refused + 20)
    await redis.start()
  }
  const enough = accepted.length + 50
  await until(() => accepted.length >= enough)
  await stop()
  t.deepEqual(
    [...seen.keys()].filter((status) => ![200, 202, 503].includes(status)),
    [],
  )
  await expectBooks(t, service, accounts, accepted)
})

testRedis('a service that is started before its Redis serves as soon as that is there', async (t, redis) => {
  await redis.kill()
  const service = await onRedis(t, redis)
  const raw = createClient(service.url, { patient: false })
  await expect503(t, () => ({ ready: raw.get('/health/ready') }))
  await redis.start()
  await until(isReady(service.url))
  await createClient(service.url).open('5')
})

testRedis('connections to Redis that die unnoticed are replaced', async (t, redis) => {
  const proxy = await startProxy(redis.url)
  const service = await onRedis(t, redis, 1, proxy)
  const http = createClient(service.url)
  const accounts = await openTwo(http)
  await keyed(http, accounts, 'before', { Prefer: 'wait=20' })
  proxy.lose()
  // The API notices by the answers that do not come; a worker waits longer for jobs than anyone for an answer.
  await until(isReady(service.url))
  await until(async () => (await keyed(http, accounts, 'after', { Prefer: 'wait=1' })).status === 200)
  t.is((await keyed(http, accounts, 'after')).body.status, 'posted')
})

testRedis('while a Redis that hangs keeps others waiting, whoever comes is refused at once', async (t, redis) => {
  const service = await onRedis(t, redis)
  const raw = createClient(service.url, { patient: false })
  const accounts = await openTwo(createClient(service.url))
  redis.freeze()
  // One is with Redis, one waits for it to come back, and by and by one more comes.
  const took_ms: number[] = []
  const asked: Promise<void>[] = []
  await until(
    () => {
      const began_ms = performance.now()
      const ask = async () => {
        t.is((await keyed(raw, accounts, `late ${asked.length}`)).status, 503)
        took_ms.push(performance.now() - began_ms)
      }
      asked.push(ask())
      return took_ms.some((took) => took < 100)
    },
    { interval_ms: 50 },
  )
  await Promise.all(asked)
  redis.thaw()
  await until(isReady(service.url))
  const { body } = await keyed(createClient(service.url), accounts, 'after')
  await untilDecided(t, service, [String(body.id)])
})
