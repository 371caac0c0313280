/*
 * Metrics: what happened is what /metrics says, for all parts in one answer, and neither a worker nor a store that is gone
 * keeps it from saying the rest. The Grafana dashboard and the alerts ask for nothing that is not there.
 */
import { execFile, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import test from 'ava'
import { freePort } from '../src/db/embedded.ts'
import { createClient, patiently } from './support/client.ts'
import { type Backend, backends, createDatabase, startService, until } from './support/harness.ts'
import { holdClaim, openFunded } from './support/part.ts'
import { startProxy } from './support/proxy.ts'

/** Each series by name and labels, in alphabetical order: `name{a="b",c="d"}`. */
async function read(url: string): Promise<Map<string, number>> {
  const answer = await fetch(`${url}/metrics`)
  if (answer.status !== 200) throw new Error(`${answer.status} ${await answer.text()}`)
  const series = new Map<string, number>()
  for (const line of (await answer.text()).split('\n')) {
    const [, name, labels = '', value] = /^(\w+)(?:\{(.*)\})? (\S+)$/.exec(line) ?? []
    if (name === undefined) continue
    const sorted = [...labels.matchAll(/(\w+)="([^"]*)"/g)].map(([label]) => label).sort()
    series.set(`${name}{${sorted}}`, Number(value))
  }
  return series
}

/** Waits until a series has this value: a store or a worker that is late on a busy machine is left out for a moment. */
async function untilSeen(url: string, series: Record<string, number>): Promise<void> {
  await until(async () => {
    const found = await read(url)
    return Object.entries(series).every(([name, value]) => found.get(name) === value)
  })
}

const WAITING = 'transfer_queue_jobs{part="api",state="waiting"}'

/** Undefined while one of them is left out. */
async function readWhole(url: string): Promise<Map<string, number> | undefined> {
  const found = await read(url)
  const parts = ['postgres_deadlocks_total{part="api"}', WAITING, 'transfer_posted_total{part="worker"}']
  return parts.every((name) => found.has(name)) ? found : undefined
}

/** A service whose API knows its worker. */
async function startWatched(backend: Backend, workers = 1) {
  const port = await freePort()
  const WORKER_METRICS = [`http://127.0.0.1:${port}/metrics`]
  return await startService({ backend, workers, settings: { WORKER_PORT: port, WORKER_METRICS } })
}

for (const backend of backends) {
  test.serial(
    `${backend}: one answer tells what was submitted, decided, replayed and asked, and names nobody`,
    async (t) => {
      const series = await until(async () => {
        const service = await startWatched(backend)
        t.teardown(service.stop)
        const http = createClient(service.url)
        const [source, destination] = [await http.open('10'), await http.open()]
        t.is((await http.transfer(source, destination, '4', 'first')).status, 'posted')
        t.is((await http.transfer(source, destination, '4', 'first')).status, 'posted')
        t.is((await http.transfer(source, destination, '7')).reason, 'insufficient_funds')
        t.is((await http.transfer(source, randomUUID(), '1')).reason, 'unknown_destination')
        await http.get(`/transfers/${randomUUID()}`)
        await http.get('/nowhere')
        // A worker counts a job when it is done with it, which is after the decision is known.
        const complete = await until(async () => {
          const found = await readWhole(service.url)
          const done = found?.get('transfer_submit_to_posted_seconds_count{part="worker"}') ?? 0
          return done >= 4 && found?.get(WAITING) === 0 && found
        })
        // What was answered 503 was repeated, and counted again: then all of it begins anew.
        return ![...complete.keys()].some((name) => name.includes('status="5xx"')) && complete
      })
      const is = (name: string, value: number) => t.is(series.get(name), value, name)
      is('transfer_submitted_total{part="api"}', 4)
      is('transfer_posted_total{part="worker"}', 2)
      is('transfer_rejected_total{part="worker",reason="insufficient_funds"}', 1)
      is('transfer_rejected_total{part="worker",reason="unknown_destination"}', 1)
      is('transfer_rejected_total{part="worker",reason="unknown_source"}', 0)
      is('transfer_replayed_total{part="api"}', 1)
      is('transfer_overloaded_total{part="api"}', 0)
      is('transfer_job_size_sum{part="api"}', 4)
      is('transfer_batch_size_sum{part="worker"}', 4)
      is('transfer_queue_wait_seconds_count{part="worker"}', 4)
      is('transfer_submit_to_posted_seconds_count{part="worker"}', 4)
      is('http_request_duration_seconds_count{method="POST",part="api",route="/transfers",status="2xx"}', 4)
      is('http_request_duration_seconds_count{method="GET",part="api",route="/transfers/:id",status="4xx"}', 1)
      is('http_request_duration_seconds_count{method="GET",part="api",route="none",status="4xx"}', 1)
      is(WAITING, 0)
      is('postgres_up{part="api"}', 1)
      is('postgres_deadlocks_total{part="api"}', 0)
      is('postgres_lock_waits{part="api"}', 0)
      is('postgres_pool_connections{part="api",state="size"}', 3)
      is('postgres_pool_connections{part="worker",state="size"}', 3)
      t.true((series.get('nodejs_eventloop_lag_p99_seconds{part="worker"}') ?? 0) > 0)
      t.deepEqual(
        [...series.keys()].filter((name) => /[\da-f]{8}-[\da-f]{4}-/.test(name)),
        [],
      )
    },
  )

  test.serial(`${backend}: what waits in the queue, and what a busy source puts off, is told`, async (t) => {
    const service = await startWatched(backend, 0)
    t.teardown(service.stop)
    const http = createClient(service.url)
    const [source, destination] = await openFunded(service, '10', '0')
    await patiently(() => http.post('/transfers', { source, destination, amount: '1' }))
    let readings = 0
    const before = await until(async () => {
      readings += 1
      const found = await read(service.url)
      // The sweep of the books may be waiting too.
      return (found.get(WAITING) ?? 0) >= 1 && found
    })
    t.is(before.get('transfer_worker_scrape_failures_total{part="api"}'), readings, 'there is no worker yet')
    t.false([...before.keys()].some((name) => name.includes('part="worker"')))

    const release = await holdClaim(service, source as string)
    await service.startWorker()
    await until(async () => ((await read(service.url)).get('transfer_source_busy_total{part="worker"}') ?? 0) > 2)
    await untilSeen(service.url, { 'transfer_posted_total{part="worker"}': 0 })
    await release()
    await until(async () => {
      // One; another if an attempt that was answered 503 has got through after all.
      const { rows } = await service.pool.query('SELECT id FROM ledger.transfer WHERE source = $1', [source])
      const posted = (await read(service.url)).get('transfer_posted_total{part="worker"}')
      return rows.length > 0 && posted === rows.length
    })
  })
}

test.serial('an overload that is refused is counted', async (t) => {
  const service = await startService({ backend: 'postgres', settings: { SUBMISSION_LIMIT: 1 } })
  t.teardown(service.stop)
  const one = { source: randomUUID(), destination: randomUUID(), amount: '1' }
  t.is((await createClient(service.url).post('/transfers/batch', { transfers: [one, one] })).status, 503)
  t.is((await read(service.url)).get('transfer_overloaded_total{part="api"}'), 1)
})

test.serial('deadlocks, lock waits and closings are those of Postgres', async (t) => {
  const service = await startService({ backend: 'postgres' })
  t.teardown(service.stop)
  await service.pool.query('CREATE TABLE contended AS SELECT n FROM generate_series(1, 2) AS n')
  const [one, two] = [await service.pool.connect(), await service.pool.connect()]
  const lock = 'SELECT FROM contended WHERE n = $1 FOR UPDATE'
  for (const client of [one, two]) await client.query("BEGIN; SET deadlock_timeout = '1s'")
  await one.query(lock, [1])
  await two.query(lock, [2])
  const waiting = one.query(lock, [2])
  waiting.catch(() => {})
  await untilSeen(service.url, { 'postgres_lock_waits{part="api"}': 1 })
  const [first, second] = await Promise.allSettled([waiting, two.query(lock, [1])])
  t.is([first, second].filter(({ status }) => status === 'rejected').length, 1)
  for (const client of [one, two]) {
    await client.query('ROLLBACK')
    // A session that ends tells what it has counted at once.
    client.release(true)
  }
  await untilSeen(service.url, { 'postgres_deadlocks_total{part="api"}': 1, 'postgres_lock_waits{part="api"}': 0 })

  const [account] = await openFunded(service, '10')
  await untilSeen(service.url, { 'transfer_books_closed_total{part="api"}': 0 })
  const closer = await service.pool.connect()
  // As soon as no transaction anywhere in this Postgres is older than the credit.
  await until(async () => {
    const { rows } = await closer.query('SELECT ledger.close_books(ARRAY[$1::uuid]) AS closed', [account])
    return Number(rows[0].closed) === 1
  })
  closer.release(true)
  await untilSeen(service.url, { 'transfer_books_closed_total{part="api"}': 1 })
  t.pass()
})

test.serial('a worker that hangs is left out in time, and counted', async (t) => {
  const silent = createServer().listen(0, '127.0.0.1')
  await once(silent, 'listening')
  t.teardown(() => void silent.close())
  const address = silent.address()
  const port = typeof address === 'object' ? address?.port : 0
  const service = await startService({
    backend: 'postgres',
    settings: { WORKER_METRICS: [`http://127.0.0.1:${port}/metrics`] },
  })
  t.teardown(service.stop)
  for (const failures of [1, 2]) {
    t.is((await read(service.url)).get('transfer_worker_scrape_failures_total{part="api"}'), failures)
  }
  await untilSeen(service.url, { 'postgres_up{part="api"}': 1 })
})

test.serial('a database that is away is told, and the rest too', async (t) => {
  const { url, drop } = await createDatabase()
  t.teardown(drop)
  const proxy = await startProxy(url)
  const service = await startService({ backend: 'postgres', database: url, settings: { DATABASE_URL: proxy.url } })
  t.teardown(service.stop)
  await untilSeen(service.url, { 'postgres_up{part="api"}': 1 })
  await proxy.refuse()
  await untilSeen(service.url, { 'postgres_up{part="api"}': 0 })
  const series = await read(service.url)
  t.is(series.get('transfer_submitted_total{part="api"}'), 0)
  t.is(series.get(WAITING), undefined)
  await proxy.restore()
  await untilSeen(service.url, { 'postgres_up{part="api"}': 1 })
  await proxy.close()
})

test.serial('a port that is taken keeps no worker from posting', async (t) => {
  const service = await startService({ backend: 'postgres', workers: 0 })
  t.teardown(service.stop)
  const port = Number(new URL(service.url).port)
  const other = await startService({ backend: 'postgres', settings: { WORKER_PORT: port } })
  t.teardown(other.stop)
  t.true(other.log.some(({ msg, level }) => level === 50 && msg?.includes('its port cannot be had')))
  const http = createClient(other.url)
  t.is((await http.transfer(await http.open('1'), await http.open(), '1')).status, 'posted')
})

test.serial('npm start shows its worker beside the API, and again after it was killed', async (t) => {
  const { url: databaseUrl, drop } = await createDatabase()
  t.teardown(drop)
  const file = fileURLToPath(new URL('../src/start.ts', import.meta.url))
  const child = spawn(process.execPath, [file], {
    env: { PATH: process.env.PATH, DATABASE_URL: databaseUrl, PORT: '0', LOG_LEVEL: 'warn' },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const exited = once(child, 'exit')
  t.teardown(async () => {
    child.kill('SIGTERM')
    await exited
  })
  let said = ''
  child.stdout.on('data', (bytes) => (said += bytes))
  const url = await until(() => /running at (\S+)/.exec(said)?.[1])
  const connections = async () => (await read(url)).get('postgres_pool_connections{part="worker",state="size"}')
  await until(async () => (await connections()) === 3)

  const { stdout } = await promisify(execFile)('ps', ['-o', 'pid=,args=', '--ppid', String(child.pid)])
  const worker = stdout.split('\n').find((line) => line.includes('worker/main.ts'))
  process.kill(Number.parseInt(worker ?? '', 10), 'SIGKILL')
  await until(async () => (await connections()) === undefined)
  await until(async () => (await connections()) === 3)
  t.pass()
})

/** The metrics that a PromQL expression asks for: its words that are neither functions, nor labels, nor texts. */
function metricsIn(expression: string): string[] {
  const bare = expression
    .replace(/"[^"]*"/g, '')
    .replace(/\{[^}]*\}/g, '')
    .replace(/\[[^\]]*\]/g, '')
    .replace(/\b(?:by|without|on|ignoring)\s*\([^)]*\)/g, '')
  return [...bare.matchAll(/\b[a-z]\w*\b(?!\s*\()/g)].map(([word]) => word).filter((word) => !OPERATORS.has(word))
}

const OPERATORS = new Set(['and', 'or', 'unless', 'bool', 'sum', 'max', 'min', 'e9'])

test.serial('every metric that the Grafana dashboard and the alerts ask for is there', async (t) => {
  const ops = (path: string) => readFile(new URL(`../ops/${path}`, import.meta.url), 'utf8')
  const { panels } = JSON.parse(await ops('grafana/dashboards/transfer.json')) as {
    panels: { targets: { expr: string }[] }[]
  }
  const alerts = [...(await ops('alerts.yml')).matchAll(/^\s+expr: (.*)$/gm)].map(([, expression]) => expression ?? '')
  const asked = [...panels.flatMap(({ targets }) => targets.map(({ expr }) => expr)), ...alerts].flatMap(metricsIn)
  t.true(panels.length > 10 && alerts.length >= 4 && asked.length > 30)

  const service = await startWatched('postgres')
  t.teardown(service.stop)
  const http = createClient(service.url)
  await http.open('1')
  const series = await until(() => readWhole(service.url))
  const names = new Set([...series.keys()].map((name) => name.replace(/\{.*/, '')))
  t.deepEqual(
    [...new Set(asked)].filter((name) => !names.has(name)),
    [],
  )
  t.deepEqual(metricsIn('sum by (le) (rate(transfer_gone_bucket{state="x"}[5m])) > 0'), ['transfer_gone_bucket'])
})
