/*
 * Transfers over HTTP, from submission to decision: one by one and in batches, by asking and by waiting, with their
 * jobs.
 */
import { createHash, randomUUID } from 'node:crypto'
import test from 'ava'
import { type Body, type Client, createClient, type Job, patiently, type Statement } from './support/client.ts'
import { backends, type Service, startService, until } from './support/harness.ts'

const UUID_V5 = /^[\da-f]{8}-[\da-f]{4}-5[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/
const UUID_V7 = /^[\da-f]{8}-[\da-f]{4}-7[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/
const MOMENT = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z$/

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

  test(`${backend}: a submitted transfer is accepted with a place to look, and posted`, async (t) => {
    const { status, headers, body, source, destination } = await patiently(async () => {
      const [source, destination] = [await http.open('100.00'), await http.open()]
      return { ...(await http.post('/transfers', { source, destination, amount: '12.50' })), source, destination }
    })
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

  test(`${backend}: whoever prefers to wait gets the decision`, (t) =>
    patiently(async () => {
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
    }))

  test(`${backend}: a wait is at most 30 s, and one preference of several`, async (t) => {
    const [source, destination] = [await http.open('10'), await http.open()]
    for (const [prefer, applied] of [
      ['wait=3600', 'wait=30'],
      ['respond-async, wait=20', 'wait=20'],
      ['WAIT = 20', 'wait=20'],
    ] as const) {
      const { status, headers } = await patiently(() =>
        http.post('/transfers', { source, destination, amount: '1' }, { Prefer: prefer }),
      )
      t.is(status, 200)
      t.is(headers.get('Preference-Applied'), applied)
    }
    for (const prefer of ['wait=0', 'wait=soon', 'wait', 'return=minimal']) {
      const { status, headers } = await patiently(() =>
        http.post('/transfers', { source, destination, amount: '1' }, { Prefer: prefer }),
      )
      t.is(status, 202, prefer)
      t.is(headers.get('Preference-Applied'), null)
    }
  })

  test(`${backend}: a wait that ends without a decision is answered as queued`, async (t) => {
    const [source, destination] = [await openStill(), await openStill()]
    const { status, headers, body } = await patiently(() =>
      still.post('/transfers', { source, destination, amount: '1' }, { Prefer: 'wait=1' }),
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
    const { body } = await patiently(() => still.post('/transfers', { source, destination, amount: '1.10' }))
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
    const { status, body, source, other } = await patiently(async () => {
      const [source, other] = [await http.open('1000'), await http.open('1000')]
      const transfers = [
        { source, destination: other, amount: '1', key: 'a' },
        { source: other, destination: source, amount: '2', key: 'a' },
        { source, destination: other, amount: '3' },
        { source, destination: other, amount: '1.00', key: 'a' },
        { source, destination: other, amount: '5000', key: 'b' },
      ]
      return { ...(await http.post('/transfers/batch', { transfers })), source, other }
    })
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
    const waiting = await patiently(async () => {
      const accounts = { source: await openStill(), destination: await openStill() }
      const transfers = ['1', '2'].map((amount) => ({ ...accounts, amount }))
      return await still.post('/transfers/batch', { transfers })
    })
    const [job] = waiting.body.jobs ?? []
    const queued = await still.get<Job>(`/jobs/${job}`)
    t.is(queued.status, 200)
    t.like(queued.body, { id: String(job), state: 'waiting', attempts: 0, transfers: 2, posted: null, rejected: null })
    t.like(queued.body, { started_at: null, finished_at: null, failure: null })
    t.regex(queued.body.submitted_at, MOMENT)

    const accepted = await patiently(async () => {
      const [source, destination] = [await http.open('1'), await http.open()]
      return await http.post('/transfers', { source, destination, amount: '1' })
    })
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
      const headers = { 'Idempotency-Key': 'all of it', Prefer: 'wait=20' }
      const { status, body } = await http.post('/transfers', request, headers)
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

  test(`${backend}: who waits for a transfer learns of it as soon as a worker has come`, async (t) => {
    const own = await startService({ backend })
    try {
      const client = createClient(own.url)
      const [source, destination] = [await client.open('10'), await client.open()]
      await own.stopWorkers()
      const keys = Array.from({ length: 20 }, (_, number) => `key ${number}`)
      const waiting = keys.map((key) =>
        client.post('/transfers', { source, destination, amount: '1' }, { 'Idempotency-Key': key, Prefer: 'wait=30' }),
      )
      const back = { source: destination, destination: source, amount: '100' }
      const { headers } = await client.post('/transfers', back, { 'Idempotency-Key': 'back' })
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
