/*
 * The HTTP contract, end to end: every route, through queue, worker and Postgres, on both backends.
 */
import { createHash, randomUUID } from 'node:crypto'
import test from 'ava'
import { SERVICE_ACCOUNT } from '../src/transfer.ts'
import { type Body, type Client, createClient } from './client.ts'
import { backends, type Service, startService, until } from './harness.ts'

const UUID_V5 = /^[\da-f]{8}-[\da-f]{4}-5[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/
const UUID_V7 = /^[\da-f]{8}-[\da-f]{4}-7[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/
/** Of a request whose client gave none. */
const MADE_ID = /^[\w-]{8,40}$/
const MOMENT = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z$/

type Line = { direction: string; account: string } & Body
type Statement = { account: string; transfers: Line[]; next_cursor: string | null }
type Job = Body & {
  transfers: number
  submitted_at: string
  started_at: string | null
  finished_at: string | null
  failure: string | null
}

for (const backend of backends) {
  let service: Service
  let http: Client
  // A second one, where nothing is ever decided.
  let idle: Service
  let still: Client

  test.before(`${backend}: start`, async () => {
    service = await startService({ backend })
    http = createClient(service.url)
    idle = await startService({ backend, workers: 0 })
    still = createClient(idle.url)
  })

  test.after.always(`${backend}: stop`, async () => {
    await service?.stop()
    await idle?.stop()
  })

  /** Accounts on the service without a worker, which has no need of money. */
  const openStill = async () => String((await still.post('/accounts', {})).body.id)

  test(`${backend}: an account opens under an id of the client's or of the server's`, async (t) => {
    const made = await http.post('/accounts', {})
    t.is(made.status, 201)
    t.regex(String(made.body.id), UUID_V7)
    t.regex(String(made.body.created_at), MOMENT)
    t.deepEqual(made.body, { id: made.body.id, overdraft: false, created_at: made.body.created_at } as Body)
    t.is(made.headers.get('Location'), `/accounts/${made.body.id}`)
    t.regex(made.headers.get('Content-Type') ?? '', /^application\/json/)

    const id = randomUUID()
    const named = await http.post('/accounts', { id: id.toUpperCase() })
    t.is(named.status, 201)
    t.is(named.body.id, id)

    const empty = await http.call('POST', '/accounts')
    t.is(empty.status, 201)

    for (const { body, headers } of [made, named, empty]) {
      const seen = await http.get(headers.get('Location') ?? '')
      t.is(seen.status, 200)
      t.deepEqual(seen.body, body)
      const balance = await http.get(`/accounts/${body.id}/balance`)
      t.is(balance.status, 200)
      t.deepEqual(balance.body, { account: String(body.id), balance: '0' })
    }
  })

  test(`${backend}: an opening balance is a transfer from the service account`, async (t) => {
    const waited = await http.post('/accounts', { balance: '100.00' }, { Prefer: 'wait=20' })
    t.is(waited.status, 201)
    t.is(waited.headers.get('Preference-Applied'), 'wait=20')
    t.like(waited.body.funding, {
      status: 'posted',
      source: SERVICE_ACCOUNT,
      destination: String(waited.body.id),
      amount: '100.00',
    })
    t.is((await http.get(`/accounts/${waited.body.id}/balance`)).body.balance, '100.00')

    const { status, headers, body } = await http.post('/accounts', { balance: 7 })
    t.is(status, 201)
    t.is(headers.get('Preference-Applied'), null)
    t.like(body.funding, { status: 'queued', source: SERVICE_ACCOUNT, destination: String(body.id), amount: '7' })
    const funded = await http.get(`/transfers/${body.funding?.id}?job=${body.funding?.job}`, { Prefer: 'wait=20' })
    t.like(funded.body, { id: String(body.funding?.id), status: 'posted', amount: '7' })
    t.is((await http.get(`/accounts/${body.id}/balance`)).body.balance, '7')
  })

  test(`${backend}: an account opens once`, async (t) => {
    const id = await http.open('5.00')
    const before = await http.get(`/accounts/${id}`)
    for (const again of [{ id }, { id, balance: '5.00' }, { id: id.toUpperCase(), balance: '6.00' }]) {
      const { status, body } = await http.post('/accounts', again, { Prefer: 'wait=1' })
      t.is(status, 409)
      t.like(body, { type: '/problems/account-exists', status: 409 })
    }
    t.is((await http.post('/accounts', { id: SERVICE_ACCOUNT, balance: '1' })).status, 409)
    t.deepEqual((await http.get(`/accounts/${id}`)).body, before.body)
    t.is((await http.get(`/accounts/${id}/balance`)).body.balance, '5.00')

    // Nor is one whose money is still on its way.
    const { body } = await still.post('/accounts', { balance: '5.00' })
    t.is(body.funding?.status, 'queued')
    t.is((await still.post('/accounts', { id: body.id, balance: '5.00' })).status, 409)
  })

  test(`${backend}: many clients opening one account at once fund it once`, async (t) => {
    const request = { id: randomUUID(), balance: '5.00' }
    const answers = await Promise.all(
      Array.from({ length: 12 }, () => http.post('/accounts', request, { Prefer: 'wait=20' })),
    )
    const opened = answers.filter(({ status }) => status === 201)
    t.true(opened.length >= 1)
    t.true(answers.every(({ status }) => status === 201 || status === 409))
    t.is(new Set(opened.map(({ body }) => body.funding?.id)).size, 1)
    t.is((await http.get(`/accounts/${request.id}/balance`)).body.balance, '5.00')
    t.is((await http.get<Statement>(`/accounts/${request.id}/transfers`)).body.transfers.length, 1)
  })

  test(`${backend}: an account nobody opened is not found`, async (t) => {
    for (const rest of ['', '/balance', '/balance?at=2020-01-01T00:00:00Z', '/transfers']) {
      const { status, body } = await http.get(`/accounts/${randomUUID()}${rest}`)
      t.is(status, 404, rest)
      t.is(body.type, '/problems/account-not-found')
    }
  })

  test(`${backend}: a balance is known at every past moment`, async (t) => {
    const opened = await http.post('/accounts', { balance: '100.00' }, { Prefer: 'wait=20' })
    const id = String(opened.body.id)
    const other = await http.open('10')
    const history = [
      { at: String(opened.body.created_at), balance: '0' },
      { at: String(opened.body.funding?.recorded_at), balance: '100.00' },
    ]
    for (const [source, destination, amount, balance] of [
      [id, other, '30.00', '70.00'],
      [other, id, '0.00000001', '70.00000001'],
      [id, other, '1000', '70.00000001'],
      [id, other, '0.00000001', '70.00000000'],
    ] as const) {
      const { recorded_at } = await http.transfer(source, destination, amount)
      history.push({ at: String(recorded_at), balance })
    }

    const at = async (moment: string) => http.get(`/accounts/${id}/balance?at=${encodeURIComponent(moment)}`)
    for (const [position, { at: moment, balance }] of history.entries()) {
      const { status, body } = await at(moment)
      t.is(status, 200)
      t.deepEqual(body, { account: id, balance: sameDecimal(balance, body.balance), at: moment })
      const before = await at(oneMicrosecondBefore(moment))
      const expected = history[position - 1]?.balance
      if (expected === undefined) t.is(before.status, 404)
      else t.is(before.body.balance, sameDecimal(expected, before.body.balance))
    }
    const now = await http.get(`/accounts/${id}/balance`)
    t.is(Number(now.body.balance), 70)
    t.is(now.body.at, undefined)

    // One moment in another time zone is the same moment.
    const elsewhere = String(history[2]?.at).replace('Z', '+00:00')
    t.is((await at(elsewhere)).body.balance, '70.00')
  })

  test(`${backend}: a statement lists what came and went, newest first, page by page`, async (t) => {
    const id = await http.open('100.00')
    const other = await http.open('50.00')
    const nobody = randomUUID()
    const sent = await http.transfer(id, other, '30.00')
    const received = await http.transfer(other, id, '5')
    const refused = await http.transfer(id, other, '1000')
    const astray = await http.transfer(id, nobody, '1')

    const { status, body } = await http.get<Statement>(`/accounts/${id}/transfers`)
    t.is(status, 200)
    t.is(body.account, id)
    t.is(body.next_cursor, null)
    const [funding] = body.transfers.slice(-1)
    t.like(funding, { direction: 'received', account: SERVICE_ACCOUNT, amount: '100.00', status: 'posted' })
    const expected = [
      {
        id: astray.id,
        direction: 'sent',
        account: nobody,
        amount: '1',
        status: 'rejected',
        reason: 'unknown_destination',
      },
      {
        id: refused.id,
        direction: 'sent',
        account: other,
        amount: '1000',
        status: 'rejected',
        reason: 'insufficient_funds',
      },
      { id: received.id, direction: 'received', account: other, amount: '5', status: 'posted' },
      { id: sent.id, direction: 'sent', account: other, amount: '30.00', status: 'posted' },
    ]
    t.is(body.transfers.length, expected.length + 1)
    for (const [position, line] of expected.entries()) t.like(body.transfers[position], line)
    for (const line of body.transfers) t.regex(String(line.recorded_at), MOMENT)
    // The indexes are those of the senders' chains.
    t.deepEqual(
      body.transfers.slice(0, -1).map((line) => line.index),
      [2, 1, 0, 0],
    )

    // The other side sees what it received, and nothing of what was rejected.
    const theirs = (await http.get<Statement>(`/accounts/${other}/transfers`)).body.transfers
    t.deepEqual(theirs.map((line) => [line.id, line.direction, line.account]).slice(0, -1), [
      [received.id, 'sent', id],
      [sent.id, 'received', id],
    ])

    for (const limit of [1, 2, 3, 5, 100]) {
      const pages = await readPages(http, id, limit)
      t.deepEqual(pages.flat(), body.transfers, `limit ${limit}`)
      t.true(pages.every((page) => page.length <= limit))
    }
  })

  test(`${backend}: pages do not shift when transfers arrive in between`, async (t) => {
    const [id, other] = [await http.open('100'), await http.open('100')]
    for (let count = 0; count < 20; count++) await http.transfer(count % 2 ? id : other, count % 2 ? other : id, '1')
    const before = (await http.get<Statement>(`/accounts/${id}/transfers?limit=100`)).body.transfers
    t.is(before.length, 21)
    const pages = await readPages(http, id, 8, async () => {
      await http.transfer(id, other, '1')
      await http.transfer(other, id, '1')
    })
    t.deepEqual(pages.flat(), before)

    // Unless told, a page has 20 lines.
    const page = (await http.get<Statement>(`/accounts/${id}/transfers`)).body
    t.is(page.transfers.length, 20)
    t.not(page.next_cursor, null)
  })

  test(`${backend}: transfers of one batch, all of one moment, are paged without loss`, async (t) => {
    const [id, other] = [await http.open('1000'), await http.open('1000')]
    const transfers = Array.from({ length: 40 }, (_, count) => ({
      source: count % 2 ? id : other,
      destination: count % 2 ? other : id,
      amount: String(count + 1),
    }))
    const { body } = await http.post('/transfers/batch', { transfers })
    const ids = body.ids ?? []
    await Promise.all(ids.map((transfer) => http.get(`/transfers/${transfer}`, { Prefer: 'wait=20' })))
    const lines = (await readPages(http, id, 7)).flat()
    t.is(lines.length, 41)
    t.deepEqual(
      lines
        .slice(0, -1)
        .map((line) => line.id)
        .sort(),
      [...ids].sort(),
    )
  })

  test(`${backend}: a submitted transfer is accepted with a place to look, and posted`, async (t) => {
    const [source, destination] = [await http.open('100.00'), await http.open()]
    const { status, headers, body } = await http.post('/transfers', { source, destination, amount: '12.50' })
    t.is(status, 202)
    t.regex(String(body.id), UUID_V7)
    t.regex(String(body.job), UUID_V7)
    t.deepEqual(body, { id: body.id, source, destination, amount: '12.50', status: 'queued', job: body.job } as Body)
    t.is(headers.get('Location'), `/transfers/${body.id}?job=${body.job}`)
    t.is(headers.get('Preference-Applied'), null)
    t.is(headers.get('Idempotent-Replayed'), null)

    const decided = await until(async () => {
      const answer = await http.get(headers.get('Location') ?? '')
      t.is(answer.status, 200)
      return answer.body.status !== 'queued' && answer.body
    })
    t.regex(String(decided.recorded_at), MOMENT)
    t.deepEqual(decided, {
      ...{ id: body.id, source, index: 0, destination, amount: '12.50' },
      ...{ recorded_at: decided.recorded_at, status: 'posted' },
    } as Body)
    t.deepEqual((await http.get(`/transfers/${String(body.id).toUpperCase()}`)).body, decided)
    t.is((await http.get(`/accounts/${source}/balance`)).body.balance, '87.50')
    t.is((await http.get(`/accounts/${destination}/balance`)).body.balance, '12.50')
  })

  test(`${backend}: a key decides the id, within its source account`, async (t) => {
    const [source, other] = [await http.open('10'), await http.open('10')]
    const key = 'invoice 4711'
    const mine = await http.transfer(source, other, '1', key)
    const theirs = await http.transfer(other, source, '1', key)
    t.regex(String(mine.id), UUID_V5)
    t.is(mine.id, version5(source, key))
    t.is(theirs.id, version5(other, key))
  })

  test(`${backend}: whoever prefers to wait gets the decision`, async (t) => {
    const [source, destination, nobody] = [await http.open('10'), await http.open(), randomUUID()]
    for (const [request, decision] of [
      [
        { source, destination, amount: '4' },
        { status: 'posted', index: 0 },
      ],
      [
        { source, destination, amount: '7' },
        { status: 'rejected', reason: 'insufficient_funds', index: 1 },
      ],
      [
        { source, destination: nobody, amount: '7' },
        { status: 'rejected', reason: 'unknown_destination', index: 2 },
      ],
      [
        { source: nobody, destination: randomUUID(), amount: '7' },
        { status: 'rejected', reason: 'unknown_source', index: 0 },
      ],
    ] as const) {
      const { status, headers, body } = await http.post('/transfers', request, { Prefer: 'wait=20' })
      t.is(status, 200)
      t.is(headers.get('Preference-Applied'), 'wait=20')
      t.like(body, { ...request, ...decision })
      const seen = await http.get(headers.get('Location') ?? '', { Prefer: 'wait=20' })
      t.deepEqual(seen.body, body)
      t.is(seen.headers.get('Preference-Applied'), 'wait=20')
    }
    t.is((await http.get(`/accounts/${source}/balance`)).body.balance, '6')
  })

  test(`${backend}: a wait is at most 30 s, and one preference of several`, async (t) => {
    const [source, destination] = [await http.open('10'), await http.open()]
    for (const [prefer, applied] of [
      ['wait=3600', 'wait=30'],
      ['respond-async, wait=20', 'wait=20'],
      ['WAIT = 20', 'wait=20'],
    ] as const) {
      const { status, headers } = await http.post(
        '/transfers',
        { source, destination, amount: '1' },
        { Prefer: prefer },
      )
      t.is(status, 200)
      t.is(headers.get('Preference-Applied'), applied)
    }
    for (const prefer of ['wait=0', 'wait=soon', 'wait', 'return=minimal']) {
      const { status, headers } = await http.post(
        '/transfers',
        { source, destination, amount: '1' },
        { Prefer: prefer },
      )
      t.is(status, 202, prefer)
      t.is(headers.get('Preference-Applied'), null)
    }
  })

  test(`${backend}: a wait that ends without a decision is answered as queued`, async (t) => {
    const [source, destination] = [await openStill(), await openStill()]
    const { status, headers, body } = await still.post(
      '/transfers',
      { source, destination, amount: '1' },
      { Prefer: 'wait=1' },
    )
    t.is(status, 202)
    t.is(body.status, 'queued')
    t.is(headers.get('Preference-Applied'), null)
    const seen = await still.get(headers.get('Location') ?? '', { Prefer: 'wait=1' })
    t.is(seen.status, 200)
    t.is(seen.headers.get('Preference-Applied'), null)
    t.deepEqual(seen.body, body)
  })

  test(`${backend}: a transfer in a living job is queued, whether or not the client names the job`, async (t) => {
    const [source, destination] = [await openStill(), await openStill()]
    const { body } = await still.post('/transfers', { source, destination, amount: '1.10' })
    for (const query of ['', `?job=${body.job}`, `?job=${randomUUID()}`]) {
      const seen = await still.get(`/transfers/${body.id}${query}`)
      t.is(seen.status, 200, query)
      t.deepEqual(seen.body, body, query)
    }
    // The job of one is no place to find another.
    const unknown = await still.get(`/transfers/${randomUUID()}?job=${body.job}`)
    t.is(unknown.status, 404)
  })

  test(`${backend}: an id that is neither decided nor queued is not found, and safe to submit again`, async (t) => {
    for (const path of [`/transfers/${randomUUID()}`, `/transfers/${randomUUID()}?job=${randomUUID()}`]) {
      const { status, body } = await http.get(path, { Prefer: 'wait=20' })
      t.is(status, 404)
      t.is(body.type, '/problems/transfer-not-found')
      t.regex(String(body.detail), /again with the same Idempotency-Key is safe/)
    }
  })

  test.serial(`${backend}: a batch is accepted with its ids in order`, async (t) => {
    const [source, other] = [await http.open('1000'), await http.open('1000')]
    const transfers = [
      { source, destination: other, amount: '1', key: 'a' },
      { source: other, destination: source, amount: '2', key: 'a' },
      { source, destination: other, amount: '3' },
      { source, destination: other, amount: '1.00', key: 'a' },
      { source, destination: other, amount: '5000', key: 'b' },
    ]
    const { status, body } = await http.post('/transfers/batch', { transfers })
    t.is(status, 202)
    t.deepEqual(Object.keys(body).sort(), ['ids', 'jobs'])
    const ids = body.ids ?? []
    t.is(ids.length, 5)
    t.is(ids[0], version5(source, 'a'))
    t.is(ids[1], version5(other, 'a'))
    t.regex(String(ids[2]), UUID_V7)
    t.is(ids[3], ids[0])
    t.is(ids[4], version5(source, 'b'))

    const decided = await Promise.all(ids.map((id) => http.get(`/transfers/${id}`, { Prefer: 'wait=20' })))
    t.deepEqual(
      decided.map((answer) => [answer.body.status, answer.body.amount]),
      [
        ['posted', '1'],
        ['posted', '2'],
        ['posted', '3'],
        ['posted', '1'],
        ['rejected', '5000'],
      ],
    )
    t.is((await http.get(`/accounts/${source}/balance`)).body.balance, '998')

    for (const id of body.jobs ?? []) {
      const job = await until(async () => {
        const { body: seen } = await http.get<Job>(`/jobs/${id}`)
        return seen.state === 'completed' && seen
      })
      t.like(job, { id, state: 'completed', transfers: 5, posted: 4, rejected: 1, failure: null })
    }
  })

  test(`${backend}: a batch holds 1 to 1,000 transfers`, async (t) => {
    const [source, destination] = [await http.open('1000'), await http.open()]
    for (const size of [1, 1000]) {
      const transfers = Array.from({ length: size }, (_, position) => ({
        ...{ source, destination, amount: '0.01' },
        key: `${size}/${position}`.padEnd(255, '.'),
      }))
      const { status, body } = await http.post('/transfers/batch', { transfers })
      t.is(status, 202)
      t.deepEqual(
        body.ids,
        transfers.map(({ key }) => version5(source, key)),
      )
      await until(async () => {
        const { rows } = await service.pool.query('SELECT id FROM ledger.transfer WHERE id = ANY ($1)', [body.ids])
        return rows.length === size
      })
    }
    t.is((await http.get(`/accounts/${destination}/balance`)).body.balance, '10.01')
  })

  test.serial(`${backend}: a job tells its state, its counts and its times`, async (t) => {
    const waiting = await still.post('/transfers/batch', {
      transfers: [
        { source: await openStill(), destination: await openStill(), amount: '1' },
        { source: await openStill(), destination: await openStill(), amount: '2' },
      ],
    })
    const [job] = waiting.body.jobs ?? []
    const queued = await still.get<Job>(`/jobs/${job}`)
    t.is(queued.status, 200)
    t.like(queued.body, { id: String(job), state: 'waiting', attempts: 0, transfers: 2, posted: null, rejected: null })
    t.like(queued.body, { started_at: null, finished_at: null, failure: null })
    t.regex(queued.body.submitted_at, MOMENT)

    const [source, destination] = [await http.open('1'), await http.open()]
    const accepted = await http.post('/transfers', { source, destination, amount: '1' })
    const done = await until(async () => {
      const { body } = await http.get<Job>(`/jobs/${accepted.body.job}`)
      return body.state === 'completed' && body
    })
    t.like(done, { attempts: 1, transfers: 1, posted: 1, rejected: 0, failure: null })
    const times = [done.submitted_at, String(done.started_at), String(done.finished_at)]
    for (const moment of times) t.regex(moment, MOMENT)
    t.deepEqual([...times].sort(), times)

    const unknown = await http.get(`/jobs/${randomUUID()}`)
    t.is(unknown.status, 404)
    t.is(unknown.body.type, '/problems/job-not-found')
  })

  test(`${backend}: amounts are exact, and come back with the digits they were sent with`, async (t) => {
    for (const [sent, back] of [
      ['0.00000001', '0.00000001'],
      ['12.50', '12.50'],
      ['1.00000000', '1.00000000'],
      ['0.10', '0.10'],
      ['99999999999999999999', '99999999999999999999'],
      ['99999999999999999999.99999999', '99999999999999999999.99999999'],
      [1, '1'],
      [100, '100'],
      [Number.MAX_SAFE_INTEGER, '9007199254740991'],
    ] as const) {
      const opened = await http.post('/accounts', { balance: sent }, { Prefer: 'wait=20' })
      t.is(opened.status, 201, back)
      t.is(opened.body.funding?.amount, back)
      const source = String(opened.body.id)
      t.is((await http.get(`/accounts/${source}/balance`)).body.balance, back)

      const destination = await http.open()
      const request = { source, destination, amount: sent }
      const { status, body } = await http.post('/transfers', request, { Prefer: 'wait=20' })
      t.is(status, 200)
      t.like(body, { status: 'posted', amount: back })
      t.is((await http.get(`/transfers/${body.id}`)).body.amount, back)
      t.is((await http.get(`/accounts/${destination}/balance`)).body.balance, back)
      t.is(Number((await http.get(`/accounts/${source}/balance`)).body.balance), 0)
      t.is((await http.get<Statement>(`/accounts/${destination}/transfers`)).body.transfers[0]?.amount, back)

      // One unit of the last place more than there is would be one too many.
      const more = await http.transfer(destination, source, back)
      t.is(more.status, 'posted')
      t.is((await http.transfer(destination, source, '0.00000001')).reason, 'insufficient_funds')
    }
  })

  test(`${backend}: health says that the process lives, readiness that it has what it needs`, async (t) => {
    const health = await http.get('/health')
    t.is(health.status, 204)
    t.is(health.text, '')
    const ready = await http.get('/health/ready')
    t.is(ready.status, 200)
    t.deepEqual(ready.body, { status: 'ready', database: 'up', queue: 'up' } as Body)
  })

  test(`${backend}: every answer carries a request id, the client's if it sent one`, async (t) => {
    for (const path of ['/health', '/health/ready', '/nowhere', `/transfers/${randomUUID()}`]) {
      const given = await http.get(path, { 'X-Request-ID': 'trace/1.2:a=b+c_d' })
      t.is(given.headers.get('X-Request-ID'), 'trace/1.2:a=b+c_d')
      const made = await http.get(path)
      t.regex(made.headers.get('X-Request-ID') ?? '', MADE_ID)
      if (given.status === 404) t.is(given.body.request_id, 'trace/1.2:a=b+c_d')
      if (made.status === 404) t.is(made.body.request_id, made.headers.get('X-Request-ID') ?? '')
    }
    // One that would not fit into a log line is replaced.
    for (const odd of ['a b', '"quoted"', '<b>', 'x'.repeat(129)]) {
      t.regex((await http.get('/health', { 'X-Request-ID': odd })).headers.get('X-Request-ID') ?? '', MADE_ID, odd)
    }
  })

  test(`${backend}: a problem has the members of RFC 9457 and the id of its request`, async (t) => {
    const problems = [
      await http.get('/nowhere'),
      await http.get(`/accounts/${randomUUID()}`),
      await http.call('PUT', '/transfers'),
      await http.post('/accounts', '{'),
      await http.post('/accounts', { id: SERVICE_ACCOUNT }),
      await http.post('/accounts', '{}', { 'Content-Type': 'text/plain' }),
    ]
    t.deepEqual(
      problems.map(({ status }) => status),
      [404, 404, 405, 400, 409, 415],
    )
    for (const { status, headers, body } of problems) {
      t.is(headers.get('Content-Type'), 'application/problem+json')
      t.deepEqual(Object.keys(body).sort(), ['detail', 'request_id', 'status', 'title', 'type'])
      t.is(body.status, status)
      t.regex(String(body.type), /^\/problems\/[a-z-]+$/)
      t.true(String(body.title).length > 0 && String(body.detail).length > 0)
      t.is(body.request_id, headers.get('X-Request-ID') ?? '')
    }
  })

  test(`${backend}: HEAD is GET without the body, OPTIONS names the methods`, async (t) => {
    const id = await http.open('3.00')
    for (const path of [`/accounts/${id}`, `/accounts/${id}/balance`, '/health/ready', '/health', '/nowhere']) {
      const get = await http.get(path)
      const head = await http.call('HEAD', path)
      t.is(head.status, get.status, path)
      t.is(head.text, '')
      t.is(head.headers.get('Content-Type'), get.headers.get('Content-Type'))
    }
    for (const [path, allow] of [
      ['/transfers', 'POST'],
      [`/accounts/${id}`, 'GET, HEAD'],
    ] as const) {
      const { status, headers } = await http.call('OPTIONS', path)
      t.true(status === 200 || status === 204, path)
      t.deepEqual(methods(headers), methods(new Headers({ Allow: allow })), path)
    }
  })

  test(`${backend}: who waits for a transfer learns of it as soon as a worker has come`, async (t) => {
    const own = await startService({ backend })
    try {
      const client = createClient(own.url)
      const [source, destination] = [await client.open('10'), await client.open()]
      await own.stopWorkers()
      const waiting = Array.from({ length: 20 }, () =>
        client.post('/transfers', { source, destination, amount: '1' }, { Prefer: 'wait=30' }),
      )
      const { headers } = await client.post('/transfers', { source: destination, destination: source, amount: '100' })
      const looking = client.get(headers.get('Location') ?? '', { Prefer: 'wait=30' })
      await own.startWorker()
      t.is((await looking).body.status, 'rejected')
      const answers = await Promise.all(waiting)
      t.true(answers.every(({ status }) => status === 200))
      t.is(answers.filter(({ body }) => body.status === 'posted').length, 10)
      t.is(answers.filter(({ body }) => body.reason === 'insufficient_funds').length, 10)
      t.deepEqual(
        answers.map(({ body }) => Number(body.index)).sort((a, b) => a - b),
        Array.from({ length: 20 }, (_, index) => index),
      )
    } finally {
      await own.stop()
    }
  })
}

/** All pages of a statement, one after the other. */
async function readPages(
  http: Client,
  account: string,
  limit: number,
  between?: () => Promise<void>,
): Promise<Line[][]> {
  const pages: Line[][] = []
  let cursor: string | null = null
  do {
    const next: string = cursor === null ? '' : `&cursor=${encodeURIComponent(cursor)}`
    const { body } = await http.get<Statement>(`/accounts/${account}/transfers?limit=${limit}${next}`)
    pages.push(body.transfers)
    cursor = body.next_cursor
    if (cursor !== null) await between?.()
  } while (cursor !== null)
  return pages
}

/** RFC 9562, section 5.5, by hand: the SHA-1 of namespace and name, with version and variant set. */
function version5(namespace: string, name: string): string {
  const bytes = createHash('sha1')
    .update(Buffer.from(namespace.replaceAll('-', ''), 'hex'))
    .update(name, 'utf8')
    .digest()
    .subarray(0, 16)
  bytes[6] = (Number(bytes[6]) & 0x0f) | 0x50
  bytes[8] = (Number(bytes[8]) & 0x3f) | 0x80
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
}

/** The expected spelling if the found one is the same decimal: sums keep the most digits any of their terms had. */
function sameDecimal(expected: string, found: string | undefined): string {
  const plain = (text: string) => (text.includes('.') ? text.replace(/\.?0+$/, '') : text)
  return found !== undefined && plain(found) === plain(expected) ? found : expected
}

function oneMicrosecondBefore(moment: string): string {
  const [, second = '', fraction = ''] = /^(.*?)(?:\.(\d+))?Z$/.exec(moment) ?? []
  const micros = BigInt(Date.parse(`${second}Z`)) * 1000n + BigInt(fraction.padEnd(6, '0')) - 1n
  const whole = new Date(Number(micros / 1000n)).toISOString().slice(0, 19)
  return `${whole}.${String(micros % 1_000_000n).padStart(6, '0')}Z`
}

function methods(headers: Headers): string[] {
  return (headers.get('Allow') ?? '').split(/,\s*/).sort()
}
