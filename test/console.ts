/*
 * What the console stands on: its files, the live stream, the history of an account, the look-up of a transfer by key.
 */
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { connect } from 'node:net'
import { isDeepStrictEqual } from 'node:util'
import test, { type ExecutionContext } from 'ava'
import type { Sample } from '../src/api/live.ts'
import { type Client, createClient, headerText } from './support/client.ts'
import { backends, createDatabase, type Service, startService, until } from './support/harness.ts'
import { startPart, withService } from './support/part.ts'
import { startProxy } from './support/proxy.ts'

type Viewer = { status: number; samples: Sample[]; ended: Promise<unknown>; leave(): void }

/** Watches until it is told to leave, or the stream ends. */
async function watch(url: string): Promise<Viewer> {
  const leaving = new AbortController()
  const answer = await fetch(`${url}/live`, { signal: leaving.signal })
  const samples: Sample[] = []
  const read = async () => {
    let text = ''
    for await (const chunk of answer.body?.pipeThrough(new TextDecoderStream()) ?? []) {
      const events = (text + chunk).split('\n\n')
      text = events.pop() ?? ''
      for (const event of events) if (event.startsWith('data: ')) samples.push(JSON.parse(event.slice(6)))
    }
  }
  const ended = read().catch((error: unknown) => error)
  return { status: answer.status, samples, ended, leave: () => leaving.abort() }
}

for (const backend of backends) {
  let service: Service
  let http: Client

  test.before(`${backend}: start`, async () => {
    service = await startService({ backend })
    http = createClient(service.url)
  })

  test.after.always(`${backend}: stop`, () => service?.stop())

  test(`${backend}: the page and all it is made of are served here, and not again while they are the same`, async (t) => {
    const page = await http.get('/')
    t.is(page.status, 200)
    t.is(page.headers.get('Content-Type'), 'text/html; charset=utf-8')
    t.notRegex(page.text, /https?:|style=|<script>|\son\w+=/, 'nothing from elsewhere, nothing inline')

    // From the page on, whatever is named by something that was served.
    const seen = new Map<string, string>()
    const open = ['/']
    for (let path = open.pop(); path !== undefined; path = open.pop()) {
      if (seen.has(path)) continue
      const { status, headers, text } = await http.get(path)
      t.is(status, 200, path)
      seen.set(path, headers.get('Content-Type') ?? '')
      const again = await http.get(path, {
        'If-None-Match': headers.get('ETag') ?? 'none',
        'Cache-Control': 'max-age=0',
      })
      t.deepEqual([again.status, again.text], [304, ''], path)
      const names = [...text.matchAll(/(?:from '\.|(?:src|href)="\/console)\/([\w.]+)/g)]
      open.push(...names.map(([, name]) => `/console/${name}`))
    }
    const types = [...new Set(seen.values())].sort()
    t.deepEqual(types, [
      'image/svg+xml',
      'text/css; charset=utf-8',
      'text/html; charset=utf-8',
      'text/javascript; charset=utf-8',
    ])
    t.true(seen.has('/console/uPlot.js') && seen.has('/console/account.js'))
  })

  test(`${backend}: of the disk around the page nothing is served`, async (t) => {
    for (const name of [
      '..%2Fconsole.ts',
      '..%2f..%2fsettings.ts',
      'tsconfig.json',
      '%2Fetc%2Fpasswd',
      'constructor',
    ]) {
      t.is((await http.get(`/console/${name}`)).status, 404, name)
    }
  })

  test(`${backend}: who watches sees what is posted, rejected and submitted, how long it takes, and a sum of zero`, async (t) => {
    const [source, destination] = [await http.open('5'), await http.open()]
    const viewer = await watch(service.url)
    t.is(viewer.status, 200)
    const first = await until(() => viewer.samples[0])
    let transfers = 0
    // Postgres reports what it counts while there is something to count.
    await until(async () => {
      await http.transfer(source, destination, '0.5')
      transfers += 1
      const last = viewer.samples.at(-1) ?? first
      return Number(last.posted) >= Number(first.posted) + 5 && Number(last.rejected) >= Number(first.rejected) + 5
    })
    // On a busy machine a store is late for one reading or another, and said to be down.
    const last = await until(() => {
      const sample = viewer.samples.at(-1) ?? first
      return sample.submitted >= first.submitted + transfers && sample.balance_sum && isEmpty(sample.down) && sample
    })
    viewer.leave()

    t.is(Number(last.balance_sum?.value), 0)
    t.true((last.balance_sum?.accounts ?? 0) >= 3)
    t.is(last.deadlocks, 0)
    t.true(last.latency_jobs > 0)
    t.true(last.latency_ms_p50 !== null && last.latency_ms_p99 !== null && last.latency_ms_p50 <= last.latency_ms_p99)
    t.true(last.queue !== null && last.queue.waiting >= 0 && last.queue.failed === 0)
    for (const rate of ['submitted_per_s', 'posted_per_s', 'rejected_per_s'] as const) {
      t.true(
        viewer.samples.some((sample) => Number(sample[rate]) > 0),
        rate,
      )
    }
    const moments = viewer.samples.map(({ at }) => at)
    t.deepEqual(moments, [...new Set(moments)].sort())
  })

  test(`${backend}: all who watch see the same readings, whoever comes later the past ones too`, async (t) => {
    const first = await watch(service.url)
    await until(() => first.samples.length >= 2)
    const second = await watch(service.url)
    await until(() => second.samples.length >= 3)
    const seen = new Set(first.samples.map((sample) => JSON.stringify(sample)))
    await until(() => first.samples.length >= 3)
    for (const sample of second.samples.slice(0, 2)) t.true(seen.has(JSON.stringify(sample)))
    first.leave()
    second.leave()
  })

  test(`${backend}: a history is what the balance was at each of its moments`, async (t) => {
    const [source, destination] = [await http.open('100.00'), await http.open()]
    for (let n = 1; n <= 8; n++) await http.transfer(source, destination, `${n}.25`)
    for (const account of [source, destination]) {
      const opened = (await http.get(`/accounts/${account}`)).body.created_at ?? ''
      const { points } = await readHistory(http, account, '?points=40')
      t.is(points.length, 40)
      t.is(points[0]?.at, opened)
      t.is(points[0]?.balance, '0')
      t.is(Number(points.at(-1)?.balance), Number((await http.get(`/accounts/${account}/balance`)).body.balance))
      t.true(new Set(points.map(({ balance }) => balance)).size > 2)
      t.deepEqual(
        points.map(({ at }) => at),
        points.map(({ at }) => at).toSorted(),
      )
      for (const { at, balance } of points) {
        t.is((await http.get(`/accounts/${account}/balance?at=${at}`)).body.balance, balance ?? 'null', at)
      }
    }
    // Over a part, and from before there was an account.
    const { created_at = '' } = (await http.get(`/accounts/${source}`)).body
    const before = new Date(Date.parse(created_at) - 60_000).toISOString()
    const { points } = await readHistory(http, source, `?from=${before}&to=${created_at}&points=2`)
    t.deepEqual(
      points.map(({ balance }) => balance),
      [null, '0'],
    )
  })

  test(`${backend}: a history that cannot be is refused`, async (t) => {
    const account = await http.open('1')
    const past = new Date(Date.now() - 60_000).toISOString()
    const ahead = new Date(Date.now() + 3_600_000).toISOString()
    for (const query of [
      'points=1',
      'points=501',
      'points=ten',
      'from=yesterday',
      `to=${ahead}`,
      `from=${new Date().toISOString()}&to=${past}`,
      'other=1',
    ]) {
      t.is((await http.get(`/accounts/${account}/history?${query}`)).status, 400, query)
    }
    t.is((await http.get(`/accounts/${randomUUID()}/history`)).status, 404)
    t.is((await http.get('/accounts/nobody/history')).status, 400)
  })

  test(`${backend}: a transfer is found by its source and key as it is by its id`, async (t) => {
    const key = 'Rechnung 7/ü & co'
    const { source, destination, query, accepted } = await until(async () => {
      const [source, destination] = [await http.open('10'), await http.open()]
      const query = new URLSearchParams({ source, key })
      t.is((await http.get(`/transfers?${query}`)).status, 404)
      const body = { source, destination, amount: '4.00' }
      const accepted = await http.post('/transfers', body, { 'Idempotency-Key': headerText(key) })
      // It is decided by now if an attempt that was answered 503 has got through after all.
      return accepted.status !== 200 && { source, destination, query, accepted }
    })
    t.is(accepted.status, 202)
    const waited = await http.get(`/transfers?${query}&job=${accepted.body.job}`, { Prefer: 'wait=20' })
    t.is(waited.status, 200)
    t.is(waited.body.status, 'posted')
    const [byKey, byId] = [await http.get(`/transfers?${query}`), await http.get(`/transfers/${accepted.body.id}`)]
    t.deepEqual(byKey.body, byId.body)
    t.is(byKey.body.id, accepted.body.id ?? '')
    // The same key of another source is another transfer.
    t.is((await http.get(`/transfers?${new URLSearchParams({ source: destination, key })}`)).status, 404)
    for (const wrong of ['', `?source=${source}`, '?key=1', `?source=x&key=1`, `?source=${source}&key=`]) {
      t.is((await http.get(`/transfers${wrong}`)).status, 400, wrong)
    }
  })

  // One by one, because who fails here takes every process down that was started meanwhile.
  test.serial(
    `${backend}: an API that stops ends the streams, and is kept neither by them nor by connections that say nothing`,
    (t) =>
      withService(backend, async (quiet) => {
        const api = await startPart('api', quiet)
        const viewers = await Promise.all(Array.from({ length: 5 }, () => watch(api.url)))
        await until(() => viewers.every(({ samples }) => samples.length > 0))
        // As browsers open them in advance.
        const silent = connect(Number(new URL(api.url).port), '127.0.0.1')
        await once(silent, 'connect')
        api.process.kill('SIGTERM')
        const ends = await Promise.all(viewers.map(({ ended }) => ended))
        t.deepEqual(ends, [undefined, undefined, undefined, undefined, undefined], 'each ends whole, none is cut')
        t.is(await api.exited, 0)
      }),
  )
}

test('there are only so many who may watch, and one that leaves makes room', async (t) => {
  const service = await startService({ backend: 'postgres', workers: 0 })
  const viewers: Viewer[] = []
  await until(async () => {
    const viewer = await watch(service.url)
    if (viewer.status === 200) viewers.push(viewer)
    return viewer.status === 503 || viewers.length > 200
  })
  t.is(viewers.length, 64)
  viewers[0]?.leave()
  const late = await until(async () => {
    const viewer = await watch(service.url)
    return viewer.status === 200 && viewer
  })
  for (const viewer of [...viewers, late]) viewer.leave()
  await service.stop()
})

test('while nobody watches nothing is read', async (t) => {
  const service = await startService({ backend: 'postgres', workers: 0 })
  const readings = async () => {
    const { rows } = await service.pool.query(
      `SELECT count(*) AS n FROM pg_stat_activity
       WHERE datname = current_database() AND query LIKE '%pg_stat_user_tables%' AND pid <> pg_backend_pid()
         AND query_start > clock_timestamp() - interval '2 seconds'`,
    )
    return Number(rows[0].n)
  }
  t.is(await readings(), 0)
  const viewer = await watch(service.url)
  await until(() => viewer.samples.some(({ down }) => isEmpty(down)))
  await until(async () => (await readings()) > 0)
  viewer.leave()
  await until(async () => (await readings()) === 0, { interval_ms: 100 })
  await service.stop()
})

test('while a store is away the stream goes on, says which, and heals', async (t) => {
  const database = await createDatabase()
  const proxy = await startProxy(database.url)
  const backend = backends.at(-1) ?? 'postgres'
  const service = await startService({ backend, database: database.url, settings: { DATABASE_URL: proxy.url } })
  t.teardown(async () => {
    await proxy.restore()
    await service.stop()
    await proxy.close()
    await database.drop()
  })
  const viewer = await watch(service.url)
  const last = () => viewer.samples.at(-1)
  await until(() => last()?.down.length === 0)
  for (const outage of [() => proxy.refuse(), () => proxy.stall()]) {
    await outage()
    const seen = viewer.samples.length
    const down = backend === 'postgres' ? ['database', 'queue'] : ['database']
    await until(() => isDeepStrictEqual(last()?.down, down) && viewer.samples.length >= seen + 3)
    t.is(last()?.posted, null)
    await proxy.restore()
    await until(() => last()?.down.length === 0 && last()?.posted !== null)
  }
  viewer.leave()
})

const isEmpty = (list: readonly unknown[]) => list.length === 0

/** A sum that sees money made from nothing: what the zero above is worth. */
test('the control: credit without a debit shows in the sum', async (t) => {
  const service = await startService({ backend: 'postgres' })
  const account = await createClient(service.url).open('5')
  await service.pool.query(
    `INSERT INTO ledger.credit (destination, source, index, amount, recorded_at)
     VALUES ($1, $1, 0, 12.34, clock_timestamp())`,
    [account],
  )
  await expectSum(t, service, '12.34')
  await service.stop()
})

async function expectSum(t: ExecutionContext, service: Service, value: string): Promise<void> {
  const viewer = await watch(service.url)
  const sum = await until(() => viewer.samples.at(-1)?.balance_sum)
  t.is(sum.value, value)
  viewer.leave()
}

type History = { account: string; points: { at: string; balance: string | null }[] }

async function readHistory(http: Client, account: string, query: string): Promise<History> {
  return (await http.get<History>(`/accounts/${account}/history${query}`)).body
}
