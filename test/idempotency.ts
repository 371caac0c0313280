/*
 * One key, one transfer: however often, from wherever and in whatever form a request is repeated, it is decided once,
 * and everyone is told that one decision. Over HTTP, in the queue and across an outage.
 */
import { randomUUID } from 'node:crypto'
import test from 'ava'
import { packTransfers } from '../src/queue.ts'
import { SERVICE_ACCOUNT, transferId } from '../src/transfer.ts'
import { type Answer, type Client, createClient, headerText, type Statement } from './support/client.ts'
import { backends, openPatientQueue, type PatientQueue, type Service, startService, until } from './support/harness.ts'

const fifty = (ask: (number: number) => Promise<Answer>) =>
  Promise.all(Array.from({ length: 50 }, (_, number) => ask(number)))

for (const backend of backends) {
  let service: Service
  // A second API process on the same database and the same queue.
  let other: Service
  let http: Client
  let second: Client
  let queue: PatientQueue

  test.before(`${backend}: start`, async () => {
    service = await startService({ backend })
    const { QUEUE_NAME } = service.settings
    other = await startService({ backend, database: service.databaseUrl, workers: 1, settings: { QUEUE_NAME } })
    http = createClient(service.url)
    second = createClient(other.url)
    queue = await openPatientQueue(service.settings)
  })

  test.after.always(`${backend}: stop`, async () => {
    await queue?.close()
    await other?.stop()
    await service?.stop()
  })

  const balance = async (account: string) => (await http.get(`/accounts/${account}/balance`)).body.balance

  /** How many lines the ledger has of these transfers. */
  async function recorded(...ids: (string | undefined)[]): Promise<number> {
    const { rows } = await service.pool.query('SELECT count(*) AS lines FROM ledger.transfer WHERE id = ANY ($1)', [
      ids,
    ])
    return rows[0].lines
  }

  test(`${backend}: a request repeated under its key gets the first decision back`, async (t) => {
    const [source, destination] = [await http.open('100'), await http.open()]
    const first = await http.transfer(source, destination, '30.00', 'rent')
    const requests = [
      { source, destination, amount: '30.00' },
      { source, destination, amount: '30' },
      { source, destination, amount: 30 },
      { source: source.toUpperCase(), destination: destination.toUpperCase(), amount: '30.00000000' },
    ]
    for (const client of [http, second]) {
      for (const request of requests) {
        for (const headers of [{}, { Prefer: 'wait=5' }]) {
          const again = await client.post('/transfers', request, { 'Idempotency-Key': 'rent', ...headers })
          t.is(again.status, 200)
          t.is(again.headers.get('Idempotent-Replayed'), 'true')
          t.deepEqual(again.body, first)
        }
      }
    }
    t.is(await recorded(first.id), 1)
    t.is(await balance(source), '70.00')
  })

  test(`${backend}: a rejection is repeated as a rejection, even when there is money by now`, async (t) => {
    const [source, destination] = [await http.open('1'), await http.open('100')]
    const first = await http.transfer(source, destination, '50', 'too early')
    t.is(first.reason, 'insufficient_funds')
    await http.transfer(destination, source, '99')
    const again = await second.post(
      '/transfers',
      { source, destination, amount: '50' },
      { 'Idempotency-Key': 'too early' },
    )
    t.is(again.status, 200)
    t.is(again.headers.get('Idempotent-Replayed'), 'true')
    t.deepEqual(again.body, first)
    t.is(await balance(source), '100')
    // Under a new key it is another transfer.
    t.is((await http.transfer(source, destination, '50', 'in time')).status, 'posted')
  })

  test(`${backend}: a key used for another transfer is refused, with the fields that differ`, async (t) => {
    const [source, destination, third] = [await http.open('100'), await http.open(), await http.open()]
    const first = await http.transfer(source, destination, '30', 'once')
    for (const [request, fields] of [
      [{ source, destination, amount: '31' }, ['amount']],
      [{ source, destination, amount: '30.00000001' }, ['amount']],
      [{ source, destination, amount: '3' }, ['amount']],
      [{ source, destination: third, amount: '30' }, ['destination']],
      [{ source, destination: third, amount: '300' }, ['destination', 'amount']],
    ] as const) {
      const { status, headers, body } = await http.post('/transfers', request, { 'Idempotency-Key': 'once' })
      t.is(status, 422)
      t.is(headers.get('Content-Type'), 'application/problem+json')
      t.is(headers.get('Idempotent-Replayed'), null)
      t.like(body, { type: '/problems/key-reused', status: 422, id: String(first.id) })
      t.deepEqual(body.fields, [...fields])
    }
    t.is(await recorded(first.id), 1)
    t.is(await balance(source), '70')
    t.is(await balance(third), '0')

    // The key of another source is another key.
    t.is((await http.transfer(destination, third, '1', 'once')).status, 'posted')
  })

  test(`${backend}: fifty clients with one key at once see one decision, whether they wait for it or ask later`, async (t) => {
    const [source, destination] = [await http.open('100'), await http.open()]
    const request = { source, destination, amount: '60' }
    const answers = await fifty((number) => {
      const headers = { 'Idempotency-Key': 'all at once', ...(number % 4 < 2 && { Prefer: 'wait=20' }) }
      return (number % 2 ? http : second).post('/transfers', request, headers)
    })
    const id = transferId(source, 'all at once')
    const decision = (await http.get(`/transfers/${id}`, { Prefer: 'wait=20' })).body
    t.like(decision, { id, status: 'posted', index: 0 })
    for (const [number, { status, headers, body }] of answers.entries()) {
      if (number % 4 < 2) t.is(status, 200)
      if (status === 200) t.deepEqual(body, decision)
      else t.like(body, { ...request, id, status: 'queued' })
      // Those who did not wait find the same one, wherever they were told to look.
      const later = status === 200 ? undefined : await (number % 2 ? http : second).get(headers.get('Location') ?? '')
      if (later) t.deepEqual(later.body, decision)
    }
    t.is(await recorded(id), 1)
    t.is(await balance(source), '40')
    t.is(await balance(destination), '60')
  })

  test(`${backend}: of two transfers under one key at once, one is decided and the other refused`, async (t) => {
    const [source, destination, third] = [await http.open('100'), await http.open(), await http.open()]
    const ask = (number: number, wait: boolean) => {
      const [to, amount] = number % 2 ? [destination, '1'] : [third, '2']
      const headers = { 'Idempotency-Key': 'contended', ...(wait && { Prefer: 'wait=20' }) }
      const client = number % 4 < 2 ? http : second
      return client.post('/transfers', { source, destination: to, amount }, headers)
    }
    const answers = await fifty((number) => ask(number, number % 8 < 4))
    const id = transferId(source, 'contended')
    const { body: decision } = await http.get(`/transfers/${id}`, { Prefer: 'wait=20' })
    const hold = (number: number, { status, body }: Answer) => {
      if ((number % 2 ? destination : third) === decision.destination) {
        t.is(status, 200)
        t.deepEqual(body, decision)
      } else {
        t.is(status, 422)
        t.deepEqual(body.fields, ['destination', 'amount'])
      }
    }
    for (const [number, answer] of answers.entries()) {
      // Accepted before anything was decided: whoever did not wait learns when asking again.
      if (answer.status === 202) t.true(number % 8 >= 4)
      hold(number, answer.status === 202 ? await ask(number, false) : answer)
    }
    t.is(await recorded(id), 1)
    t.is(await balance(source), decision.amount === '1' ? '99' : '98')
  })

  test(`${backend}: keys are the same in a header and in a batch, in every script`, async (t) => {
    const [source, destination] = [await http.open('1000'), await http.open()]
    const keys = [
      'plain',
      '💸💸',
      'Zahlung für März',
      '送金',
      'e\u0301',
      '\u00e9',
      "'; DROP TABLE",
      ' x y ',
      '%20',
      '"a"',
    ]
    for (const key of keys.filter((text) => text.trim() === text)) {
      const { status, body } = await http.post(
        '/transfers',
        { source, destination, amount: '1' },
        { 'Idempotency-Key': headerText(key), Prefer: 'wait=20' },
      )
      t.is(status, 200, key)
      t.is(body.id, transferId(source, key), key)
    }
    const { body } = await second.post('/transfers/batch', {
      transfers: keys.map((key) => ({ key, source, destination, amount: '1' })),
    })
    const ids = body.ids ?? []
    t.deepEqual(
      ids,
      keys.map((key) => transferId(source, key)),
    )
    await Promise.all(ids.map((id) => http.get(`/transfers/${id}`, { Prefer: 'wait=20' })))
    t.is(new Set(ids).size, keys.length)
    t.is(await recorded(...ids), keys.length)
    t.is(await balance(source), String(1000 - keys.length))
  })

  test(`${backend}: keys that are no UTF-8 are not taken for one another`, async (t) => {
    const [source, destination] = [await http.open('100'), await http.open()]
    // As sent by a client that writes its headers in Latin-1: ä, ö, ü.
    const answers = await Promise.all(
      ['\xe4', '\xf6', '\xfc'].map((key) =>
        http.post('/transfers', { source, destination, amount: '1' }, { 'Idempotency-Key': key, Prefer: 'wait=20' }),
      ),
    )
    const statuses = answers.map(({ status }) => status)
    // Three transfers or three refusals, but not one transfer for three.
    if (statuses.includes(200)) {
      t.deepEqual(statuses, [200, 200, 200])
      t.is(new Set(answers.map(({ body }) => body.id)).size, 3)
      t.is(await balance(source), '97')
    } else {
      t.deepEqual(statuses, [400, 400, 400])
      t.is(await balance(source), '100')
    }
  })

  test(`${backend}: a batch repeated under its keys moves money once`, async (t) => {
    const [source, destination] = [await http.open('100'), await http.open()]
    const transfers = Array.from({ length: 50 }, (_, number) => ({
      ...{ key: `item ${number}`, source, destination },
      amount: number === 7 ? '1000' : '1',
    }))
    const submit = (client: Client) => client.post('/transfers/batch', { transfers })
    const answers = await Promise.all([http, second, http, second].map(submit))
    const ids = answers[0]?.body.ids ?? []
    await Promise.all(ids.map((id) => http.get(`/transfers/${id}`, { Prefer: 'wait=20' })))
    answers.push(await submit(http), await submit(second))

    for (const { status, body } of answers) {
      t.is(status, 202)
      t.deepEqual(body.ids, ids)
    }
    // Everything in the last two was decided before: there was nothing to queue.
    t.deepEqual(
      answers.slice(-2).map(({ body }) => body.jobs),
      [[], []],
    )
    t.is(await recorded(...ids), 50)
    t.is(await balance(source), '51')
    t.is((await http.get(`/transfers/${ids[7]}`)).body.reason, 'insufficient_funds')

    // Half old, half new.
    const mixed = [...transfers.slice(25), ...transfers.slice(25).map((item) => ({ ...item, key: `${item.key}b` }))]
    const { body } = await http.post('/transfers/batch', { transfers: mixed })
    await Promise.all((body.ids ?? []).map((id) => http.get(`/transfers/${id}`, { Prefer: 'wait=20' })))
    t.deepEqual(body.ids?.slice(0, 25), ids.slice(25))
    t.is(await balance(source), '26')
  })

  test(`${backend}: a batch that reuses a key for another transfer is refused whole, by position`, async (t) => {
    const [source, destination] = [await http.open('100'), await http.open()]
    const first = await http.transfer(source, destination, '5', 'used')
    const lines = async () => (await http.get<Statement>(`/accounts/${source}/transfers`)).body.transfers.length
    const before = await lines()
    for (const [transfers, expected] of [
      // Against what was decided before,
      [
        [
          { key: 'new', source, destination, amount: '1' },
          { key: 'used', source, destination, amount: '6' },
        ],
        [['/transfers/1', ['amount']]],
      ],
      // and within the request.
      [
        [
          { key: 'twice', source, destination, amount: '1' },
          { key: 'twice', source, destination, amount: '1.00' },
          { key: 'twice', source, destination, amount: '2' },
          { key: 'twice', source, destination: SERVICE_ACCOUNT, amount: '3' },
        ],
        [
          ['/transfers/2', ['amount']],
          ['/transfers/3', ['destination', 'amount']],
        ],
      ],
    ] as const) {
      const { status, body } = await http.post('/transfers/batch', { transfers })
      t.is(status, 422)
      t.is(body.type, '/problems/key-reused')
      t.deepEqual(
        body.errors?.map(({ pointer, fields }) => [pointer, fields]),
        expected.map(([pointer, fields]) => [pointer, [...fields]]),
      )
    }
    // Had anything been queued, it would be decided before this.
    await http.transfer(source, destination, '1', 'after')
    t.is(await lines(), before + 1)
    t.is(await recorded(first.id, ...['new', 'twice'].map((key) => transferId(source, key))), 1)
  })

  test(`${backend}: a job delivered twice is decided once`, async (t) => {
    const [source, destination] = [await http.open('100'), await http.open()]
    const transfers = ['40', '40', '40'].map((amount) => ({ id: randomUUID(), source, destination, amount }))
    const data = packTransfers(transfers)
    const jobs = [randomUUID(), randomUUID(), randomUUID()]
    await Promise.all(jobs.map((jobId) => queue.add('post', data, { jobId })))
    for (const job of jobs) {
      const done = await until(async () => {
        const { body } = await http.get(`/jobs/${job}`)
        return body.state === 'completed' && body
      })
      // Each is told what came of its transfers, whoever had them decided.
      t.like(done, { posted: 2, rejected: 1, failure: null })
    }
    t.is(await recorded(...transfers.map(({ id }) => id)), 3)
    t.is(await balance(source), '20')
    t.is((await http.get<Statement>(`/accounts/${destination}/transfers`)).body.transfers.length, 2)
  })

  test(`${backend}: an account whose funding was never queued is funded when it is opened again`, async (t) => {
    for (const client of [http, second]) {
      const { id, opened } = await until(async () => {
        // An outage right after the account was stored.
        const id = randomUUID()
        await service.pool.query('SELECT ledger.open_account($1, $2)', [id, '250.00'])
        t.is(await balance(id), '0')

        for (const request of [{ id }, { id, balance: '249.99' }]) {
          t.is((await client.post('/accounts', request)).status, 409)
        }
        const opened = await client.post('/accounts', { id, balance: '250.00' }, { Prefer: 'wait=20' })
        // It is funded by now if an attempt that was answered 503 has got through after all.
        return opened.status !== 409 && { id, opened }
      })
      t.is(opened.status, 201)
      t.like(opened.body.funding, { status: 'posted', amount: '250.00', source: SERVICE_ACCOUNT, destination: id })
      t.is(await balance(id), '250.00')

      t.is((await client.post('/accounts', { id, balance: '250.00' })).status, 409)
      t.is(await balance(id), '250.00')
    }
  })
}
