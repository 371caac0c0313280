/*
 * Bad input gets a clear 4xx and changes nothing: no row, no job, whatever it is and wherever it comes in.
 */
import { randomUUID } from 'node:crypto'
import { request } from 'node:http'
import { isDeepStrictEqual } from 'node:util'
import { gzipSync } from 'node:zlib'
import test, { type ExecutionContext } from 'ava'
import { SERVICE_ACCOUNT } from '../src/transfer.ts'
import { type Answer, type Client, createClient, patiently } from './support/client.ts'
import { backends, openPatientQueue, type PatientQueue, type Service, startService } from './support/harness.ts'

/** `says` must be found in the problem's detail or among its errors. */
type Case = {
  title: string
  method?: string
  path: string
  body?: string | Buffer
  headers?: Record<string, string>
  status: number
  type: string
  says?: RegExp
}

const INVALID = { status: 400, type: 'invalid-request' }
const TOO_LARGE = { status: 413, type: 'content-too-large' }
const UNSUPPORTED = { status: 415, type: 'unsupported-media-type' }

// Both exist, so that each request below would be taken if it were not for the one thing that is wrong with it.
const SOURCE = randomUUID()
const DESTINATION = randomUUID()

const transfer = { source: SOURCE, destination: DESTINATION, amount: '1.00' }
const valid = {
  '/accounts': JSON.stringify({ balance: '1.00' }),
  '/transfers': JSON.stringify(transfer),
  '/transfers/batch': JSON.stringify({ transfers: [transfer] }),
} as const

for (const backend of backends) {
  let service: Service
  let http: Client
  let queue: PatientQueue

  test.before(`${backend}: start`, async () => {
    service = await startService({ backend, workers: 0 })
    http = createClient(service.url)
    queue = await openPatientQueue(service.settings)
    for (const id of [SOURCE, DESTINATION]) await http.post('/accounts', { id })
  })

  test.after.always(`${backend}: stop`, async () => {
    await queue?.close()
    await service?.stop()
  })

  /** All that a request could change. */
  async function count() {
    const { rows } = await service.pool.query(`
      SELECT (SELECT count(*) FROM ledger.account) AS accounts, (SELECT count(*) FROM ledger.transfer) AS transfers,
        (SELECT count(*) FROM ledger.credit) AS credits`)
    const states = ['waiting', 'active', 'delayed', 'prioritized', 'completed', 'failed'] as const
    const jobs = await queue.getJobs([...states])
    return { ...rows[0], jobs: jobs.filter((job) => job.name === 'post').length }
  }

  /** Tries all of them before it complains, so that one run names every hole. */
  async function refuse(t: ExecutionContext, cases: Case[]): Promise<void> {
    const before = await count()
    const wrong: string[] = []
    for (const { title, method = 'GET', path, body, headers = {}, status, type, says = /./ } of cases) {
      const answer = await http.call(method, path, { body, headers })
      const after = await count()
      const said = `${answer.body.detail} ${JSON.stringify(answer.body.errors)}`
      const refused =
        answer.status === status &&
        answer.body.type === `/problems/${type}` &&
        answer.headers.get('Content-Type') === 'application/problem+json' &&
        answer.body.request_id === answer.headers.get('X-Request-ID') &&
        says.test(said)
      const moved = isDeepStrictEqual(after, before) ? '' : ` and changed ${JSON.stringify({ before, after })}`
      const sent = `${method} ${path} ${body ?? ''}`.slice(0, 200)
      if (!refused || moved) wrong.push(`${title}: ${sent} was answered ${answer.status} ${answer.text}${moved}`)
    }
    t.deepEqual(wrong, [])
  }

  test.serial(`${backend}: what a request could change is counted`, async (t) => {
    for (const [path, body] of Object.entries(valid)) {
      const before = await count()
      const { status } = await patiently(() => http.post(path, body))
      t.true(status === 201 || status === 202, path)
      const after = await count()
      t.true(after.jobs > before.jobs, path)
      t.is(after.accounts > before.accounts, path === '/accounts')
    }
  })

  test.serial(`${backend}: a body that is no JSON object is refused`, async (t) => {
    const bodies: [title: string, body: string | Buffer, type: string][] = [
      ['cut off', '{"source":', 'malformed-json'],
      ['a stray brace', '{', 'malformed-json'],
      ['two values', '{}{}', 'malformed-json'],
      ['single quotes', "{'a': 1}", 'malformed-json'],
      ['a trailing comma', '{"a": 1,}', 'malformed-json'],
      ['NaN', `{"source":"${SOURCE}","destination":"${DESTINATION}","amount":NaN}`, 'malformed-json'],
      ['Infinity', `{"source":"${SOURCE}","destination":"${DESTINATION}","amount":-Infinity}`, 'malformed-json'],
      ['a raw null byte', '{"a": "\0"}', 'malformed-json'],
      ['a null', 'null', 'malformed-json'],
      ['a string', '"text"', 'malformed-json'],
      ['a number', '12', 'malformed-json'],
      ['true', 'true', 'malformed-json'],
      ['words', 'source=a&destination=b', 'malformed-json'],
      ['no UTF-8', Buffer.from('{"a": "\xff"}', 'latin1'), 'malformed-json'],
      ['UTF-16', Buffer.from(valid['/transfers'], 'utf16le'), 'malformed-json'],
      ['an array', '[]', 'invalid-request'],
      ['an array of one', `[${JSON.stringify(transfer)}]`, 'invalid-request'],
      ['__proto__', '{"__proto__": {"source": "x"}}', 'invalid-request'],
      ['an escaped __proto__', '{"\\u005f_proto__": {"source": "x"}}', 'invalid-request'],
      ['a deep nest', `{"source": ${'['.repeat(50_000)}${']'.repeat(50_000)}, "amount": 1}`, 'malformed-json'],
    ]
    await refuse(
      t,
      Object.keys(valid).flatMap((path) =>
        bodies.map(([title, body, type]) => ({ title, method: 'POST', path, body, status: 400, type })),
      ),
    )
    await refuse(t, [
      { title: 'no body', method: 'POST', path: '/transfers', ...INVALID, says: /\/source.*\/destination.*\/amount/ },
      { title: 'no body', method: 'POST', path: '/transfers/batch', ...INVALID, says: /\/transfers/ },
      { title: 'an empty object', method: 'POST', path: '/transfers', body: '{}', ...INVALID, says: /missing/ },
    ])
  })

  test.serial(`${backend}: a body of another kind, encoding or size is refused`, async (t) => {
    const cases: Case[] = []
    for (const [path, body] of Object.entries(valid)) {
      for (const kind of [
        ...['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x', 'application/xml'],
        ...['text/json5', 'application/octet-stream', 'nonsense', 'application/json; charset=utf-16'],
      ]) {
        const headers = { 'Content-Type': kind }
        cases.push({ title: kind, method: 'POST', path, body, headers, ...UNSUPPORTED, says: /application\/json/ })
      }
      for (const encoding of ['nonsense', 'gzip', 'deflate', 'br']) {
        const headers = { 'Content-Encoding': encoding }
        cases.push({ title: encoding, method: 'POST', path, body, headers, ...UNSUPPORTED, says: /plain/ })
      }
      const large = body.replace(/\}$/, `, "padding": "${'x'.repeat(600_000)}"}`)
      cases.push({ title: 'too large', method: 'POST', path, body: large, ...TOO_LARGE })
      cases.push({
        title: 'too large, blank',
        method: 'POST',
        path,
        body: `${body}${' '.repeat(600_000)}`,
        ...TOO_LARGE,
      })
    }
    // A megabyte of blanks, packed into a kilobyte.
    const packed = gzipSync(`${valid['/transfers']}${' '.repeat(1_000_000)}`)
    const headers = { 'Content-Encoding': 'gzip' }
    cases.push({ title: 'packed', method: 'POST', path: '/transfers', body: packed, headers, ...UNSUPPORTED })
    await refuse(t, cases)
  })

  test.serial(`${backend}: an id that is no UUID is refused`, async (t) => {
    const others: unknown[] = [
      ...['', ' ', 'abc', '1', '../../etc/passwd', `${SOURCE} `, `${SOURCE}\n`, `${SOURCE}\0`, `{${SOURCE}}`],
      ...[SOURCE.replaceAll('-', ''), `urn:uuid:${SOURCE}`, SOURCE.replace(/.$/, 'g'), SOURCE.slice(0, -1)],
      ...["' OR 1=1 --", 'x'.repeat(10_000), 1, 0, null, true, {}, [], [SOURCE], { id: SOURCE }],
    ]
    const cases: Case[] = []
    for (const other of others) {
      const post = (path: string, body: object, says: RegExp) =>
        cases.push({ title: 'id', method: 'POST', path, body: JSON.stringify(body), ...INVALID, says })
      post('/accounts', { id: other }, /\/id/)
      post('/transfers', { ...transfer, source: other }, /\/source.*UUID/)
      post('/transfers', { ...transfer, destination: other }, /\/destination.*UUID/)
      post('/transfers/batch', { transfers: [transfer, { ...transfer, source: other }] }, /\/transfers\/1\/source/)
    }
    for (const other of [
      'abc',
      '1',
      '%00',
      `${SOURCE}%00`,
      `${SOURCE}%0a`,
      '%zz',
      '..%2f..%2fetc',
      `%7B${SOURCE}%7D`,
    ]) {
      for (const path of ['/accounts/:', '/accounts/:/balance', '/accounts/:/transfers', '/transfers/:', '/jobs/:']) {
        cases.push({ title: 'id in the path', path: path.replace(':', other), ...INVALID, says: /UUID/ })
      }
      cases.push({ title: 'job', path: `/transfers/${randomUUID()}?job=${other}`, ...INVALID, says: /job.*UUID/ })
    }
    await refuse(t, cases)
  })

  test.serial(`${backend}: an amount that is not a plain decimal above zero is refused`, async (t) => {
    const strings = [
      ...['0', '0.0', '0.00000000', '-1', '-0.01', '+1', '1e3', '1E3', '1e-3', 'NaN', 'Infinity', '-Infinity', 'inf'],
      ...['', ' ', ' 1', '1 ', '1\n', '1\0', '\u00001', '1,5', '1.', '.5', '.', '01', '00.1', '0x10', '0b1', '1_000'],
      ...['1.2.3', '1.123456789', '0.000000001', '1'.repeat(21), `1${'0'.repeat(20)}.00`, '9'.repeat(10_000)],
      ...['١', '１', '½', '1’000', '$1', '1 EUR', 'one', 'null', 'true', '[1]'],
    ].map((text) => JSON.stringify(text))
    const numbers = [
      ...['0', '-0', '-1', '0.1', '12.50', '1.0', '1e3', '1E3', '1e0', '10e-1', '1e400', '-1e400', '1e-400'],
      ...['9007199254740992', '9007199254740993', '99999999999999999999', '1'.repeat(400)],
    ]
    const others = ['null', 'true', '{}', '[]', '["1"]', '[1]', '{"value":"1"}']
    const cases = [...strings, ...numbers, ...others].flatMap((amount): Case[] => [
      {
        ...{ title: 'amount', method: 'POST', path: '/transfers' },
        body: `{"source":"${SOURCE}","destination":"${DESTINATION}","amount":${amount}}`,
        ...{ ...INVALID, says: /\/amount.*as a string such as/ },
      },
      {
        ...{ title: 'balance', method: 'POST', path: '/accounts' },
        body: `{"id":"${randomUUID()}","balance":${amount}}`,
        ...{ ...INVALID, says: /\/balance/ },
      },
    ])
    await refuse(t, cases)
  })

  test.serial(`${backend}: a field nobody knows is refused`, async (t) => {
    const cases: Case[] = []
    for (const [path, body] of Object.entries(valid)) {
      for (const field of [
        'note',
        'AMOUNT',
        'job',
        'overdraft',
        'constructor',
        'toString',
        'hasOwnProperty',
        '',
        '\0',
      ]) {
        cases.push({
          ...{ title: 'unknown field', method: 'POST', path },
          body: body.replace('{', `{${JSON.stringify(field)}: "1", `),
          ...{ ...INVALID, says: /unknown/ },
        })
      }
      for (const field of ['__proto__', '\\u005f_proto__']) {
        const nested = body.replace('{', `{"${field}": {"amount": "1"}, `)
        cases.push({ title: '__proto__', method: 'POST', path, body: nested, ...INVALID })
      }
    }
    const beside = JSON.stringify({ transfers: [transfer, { ...transfer, id: randomUUID() }] })
    cases.push({
      title: 'in an item',
      method: 'POST',
      path: '/transfers/batch',
      body: beside,
      ...INVALID,
      says: /\/transfers\/1\/id/,
    })
    const keyed = JSON.stringify({ ...transfer, key: 'a' })
    cases.push({
      title: 'a key in the body',
      method: 'POST',
      path: '/transfers',
      body: keyed,
      ...INVALID,
      says: /\/key/,
    })
    await refuse(t, cases)
    t.is(({} as { amount?: string }).amount, undefined)
  })

  test.serial(`${backend}: the service account is no source, and no account pays itself`, async (t) => {
    const cases: Case[] = []
    for (const [pair, says] of [
      [{ source: SERVICE_ACCOUNT, destination: DESTINATION }, /\/source.*service account/],
      [{ source: SOURCE, destination: SOURCE }, /\/destination.*other than the source/],
      [{ source: SOURCE, destination: SOURCE.toUpperCase() }, /\/destination.*other than the source/],
      [{ source: SERVICE_ACCOUNT, destination: SERVICE_ACCOUNT }, /\/source/],
    ] as const) {
      const wrong = { ...pair, amount: '1' }
      const [one, many] = [JSON.stringify(wrong), JSON.stringify({ transfers: [transfer, wrong] })]
      cases.push({ title: 'pair', method: 'POST', path: '/transfers', body: one, ...INVALID, says })
      cases.push({ title: 'pair', method: 'POST', path: '/transfers/batch', body: many, ...INVALID, says })
    }
    await refuse(t, cases)
  })

  test.serial(`${backend}: a key of no or more than 255 characters is refused`, async (t) => {
    const cases = ['', 'x'.repeat(256), 'x'.repeat(5000)].flatMap((key): Case[] => [
      {
        ...{ title: 'header', method: 'POST', path: '/transfers', body: valid['/transfers'] },
        headers: { 'Idempotency-Key': key },
        ...{ ...INVALID, says: /Idempotency-Key.*1 to 255/ },
      },
      {
        ...{ title: 'item', method: 'POST', path: '/transfers/batch' },
        body: JSON.stringify({ transfers: [{ key, ...transfer }] }),
        ...{ ...INVALID, says: /\/transfers\/0\/key.*1 to 255/ },
      },
    ])
    for (const key of [1, null, true, {}, ['a']]) {
      const body = JSON.stringify({ transfers: [{ key, ...transfer }] })
      cases.push({ title: 'no string', method: 'POST', path: '/transfers/batch', body, ...INVALID, says: /\/0\/key/ })
    }
    // Half a character has no UTF-8, and so no UUID.
    const body = `{"transfers":[{"key":"\\ud800",${valid['/transfers'].slice(1)}]}`
    cases.push({ title: 'half a character', method: 'POST', path: '/transfers/batch', body, ...INVALID, says: /key/ })
    await refuse(t, cases)
  })

  test.serial(`${backend}: a batch of none, of more than 1,000 or of something else is refused`, async (t) => {
    const bodies: [title: string, body: unknown][] = [
      ['none', { transfers: [] }],
      ['1,001', { transfers: Array.from({ length: 1001 }, () => transfer) }],
      ['no array', { transfers: transfer }],
      ['a null', { transfers: null }],
      ['a string', { transfers: 'all' }],
      ['missing', {}],
      ['a null in it', { transfers: [null] }],
      ['a number in it', { transfers: [1] }],
      ['an array in it', { transfers: [[transfer]] }],
    ]
    await refuse(
      t,
      bodies.map(([title, body]) => ({
        ...{ title, method: 'POST', path: '/transfers/batch', body: JSON.stringify(body) },
        ...{ ...INVALID, says: /\/transfers/ },
      })),
    )
  })

  test.serial(`${backend}: one bad transfer refuses its whole batch, and every bad one is named`, async (t) => {
    const transfers: object[] = Array.from({ length: 1000 }, () => transfer)
    transfers[0] = { ...transfer, amount: 1.5 }
    transfers[17] = { ...transfer, source: 'nobody', note: 'x' }
    transfers[500] = { ...transfer, destination: SOURCE }
    transfers[998] = { key: '', ...transfer, amount: '0' }
    transfers[999] = {}
    const before = await count()
    const { status, body } = await http.post('/transfers/batch', { transfers })
    t.is(status, 400)
    t.deepEqual((body.errors ?? []).map(({ pointer }) => pointer).sort(), [
      ...['/transfers/0/amount', '/transfers/17/note', '/transfers/17/source', '/transfers/500/destination'],
      ...['/transfers/998/amount', '/transfers/998/key'],
      ...['/transfers/999/amount', '/transfers/999/destination', '/transfers/999/source'],
    ])
    t.true((body.errors ?? []).every(({ detail }) => Boolean(detail)))
    t.deepEqual(await count(), before)
  })

  test.serial(`${backend}: a moment that is none, or not past, is refused`, async (t) => {
    const hour_ms = 3_600_000
    const moments = [
      ...['', 'now', 'yesterday', '0', '1700000000', '2020-01-01', '2020-01-01T00:00:00', '2020-01-01 00:00:00Z'],
      ...['2020-13-01T00:00:00Z', '2020-02-30T00:00:00Z', '2020-01-01T25:00:00Z', '2020-01-01T00:61:00Z', '\0'],
      ...['0000-01-01T00:00:00Z', '-0001-01-01T00:00:00Z', '0001-01-01T00:00:00+00:01', '2020-01-01T00:00:00+24:00'],
      ...['infinity', '-infinity', 'epoch', '9999-12-31T23:59:59Z', '99999-01-01T00:00:00Z'],
      new Date(Date.now() + hour_ms).toISOString(),
    ]
    const balance = `/accounts/${SOURCE}/balance`
    await refuse(t, [
      ...moments.map((at) => ({
        title: 'at',
        path: `${balance}?at=${encodeURIComponent(at)}`,
        ...INVALID,
        says: /at.*must be/,
      })),
      { title: 'at twice', path: `${balance}?at=2020-01-01T00:00:00Z&at=2021-01-01T00:00:00Z`, ...INVALID, says: /at/ },
      { title: 'another name', path: `${balance}?date=2020-01-01`, ...INVALID, says: /date.*unknown/ },
    ])
  })

  test.serial(`${backend}: a page with a bad limit or cursor is refused`, async (t) => {
    const statement = `/accounts/${SOURCE}/transfers`
    const cursor = (content: unknown) => Buffer.from(JSON.stringify(content)).toString('base64url')
    const id = randomUUID()
    const moment = '2020-01-01T00:00:00Z'
    // One that could have been given out, so that the others are wrong for what is wrong with them.
    t.is((await http.get(`${statement}?cursor=${cursor({ sent: 1, received: ['1', moment, id, 0] })}`)).status, 200)
    await refuse(t, [
      ...['', '0', '-1', '101', '1000', '1.5', '1e1', 'abc', 'NaN', '%00', ' 1'].map((limit) => ({
        ...{ title: 'limit', path: `${statement}?limit=${limit}`, ...INVALID, says: /limit.*1 to 100/ },
      })),
      ...[
        ...['', 'abc', '%00', 'null', '1', "'", 'x'.repeat(5000)],
        ...[null, 1, 'a', [], {}, { sent: 1 }, { sent: -1, received: ['1', moment, id, 0] }].map(cursor),
        ...[
          ...['0000-01-01T00:00:00Z', '2020-01-01T00:00:00+23:59', '2020-01-01', 'infinity', '', 0].map((at) => [
            '1',
            at,
            id,
            0,
          ]),
          ...['x', '', '-1', '1.5', '99999999999999999999', "1'; DROP TABLE", 1].map((xid) => [xid, moment, id, 0]),
          ...['x', '', null].map((source) => ['1', moment, source, 0]),
          ...[-1, 1.5, 1e300, '0'].map((index) => ['1', moment, id, index]),
          ['1', moment, id],
          ['1', moment, id, 0, 0],
        ].map((received) => cursor({ sent: 1, received })),
        ...[1.5, '1', 1e300].map((sent) => cursor({ sent, received: ['1', moment, id, 0] })),
      ].map((text) => ({
        ...{ title: 'cursor', path: `${statement}?cursor=${text}`, ...INVALID, says: /cursor.*next_cursor/ },
      })),
      { title: 'limit twice', path: `${statement}?limit=1&limit=2`, ...INVALID, says: /limit/ },
      { title: 'cursor twice', path: `${statement}?cursor=a&cursor=b`, ...INVALID, says: /cursor/ },
      { title: 'another name', path: `${statement}?offset=1`, ...INVALID, says: /offset.*unknown/ },
      { title: 'job twice', path: `/transfers/${id}?job=${id}&job=${id}`, ...INVALID, says: /job/ },
    ])
  })

  test.serial(`${backend}: parameters that a route does not take, and two keys, are refused by name`, async (t) => {
    const none = ['/health', '/health/ready', `/accounts/${SOURCE}`, `/jobs/${SOURCE}`]
    const says = /note.*unknown/
    await refuse(t, [
      ...none.map((path) => ({ title: 'parameter', path: `${path}?note=1`, ...INVALID, says })),
      ...Object.entries(valid).map(([path, body]) => ({
        ...{ title: 'parameter', method: 'POST', path: `${path}?note=1`, body, ...INVALID, says },
      })),
      { title: 'no id', path: '/transfers/batch', status: 405, type: 'method-not-allowed', says: /POST/ },
      {
        ...{ title: 'route before body', method: 'POST', path: '/nowhere', body: 'a=b' },
        ...{ headers: { 'Content-Type': 'text/plain' }, status: 404, type: 'not-found' },
      },
    ])
    const before = await count()
    const body = valid['/transfers']
    const { port } = new URL(service.url)
    const twice = ['Content-Type', 'application/json', 'Idempotency-Key', 'a', 'Idempotency-Key', 'b']
    const status = await new Promise<number | undefined>((done) => {
      request({ port, path: '/transfers', method: 'POST', headers: ['Host', 'localhost', ...twice] }, (answer) => {
        answer.resume()
        done(answer.statusCode)
      }).end(body)
    })
    t.is(status, 400)
    t.deepEqual(await count(), before)
  })

  test.serial(`${backend}: an unknown route is not found`, async (t) => {
    const paths = [
      ...['/nowhere', '/account', '/transfer', '/.env', '/transfers.json', '/ACCOUNTS/x/y', '/%00', '/%zz'],
      ...[`/accounts/${SOURCE}/nothing`, `/accounts/${SOURCE}/balance/now`, `/jobs/${SOURCE}/log`, '/health/live'],
    ]
    await refuse(
      t,
      paths.flatMap((path) =>
        ['GET', 'POST', 'DELETE'].map((method) => ({ title: 'route', method, path, status: 404, type: 'not-found' })),
      ),
    )
  })

  test.serial(
    `${backend}: a method that a resource does not take is refused, and those it takes are named`,
    async (t) => {
      const before = await count()
      for (const [path, allow, methods] of [
        ['/', 'GET, HEAD', ['POST', 'PUT', 'PATCH', 'DELETE']],
        ['/transfers', 'GET, HEAD, POST', ['PUT', 'PATCH', 'DELETE']],
        ['/transfers/batch', 'POST', ['GET', 'PUT', 'PATCH', 'DELETE']],
        ['/accounts', 'POST', ['GET', 'PUT', 'PATCH', 'DELETE']],
        [`/accounts/${SOURCE}`, 'GET, HEAD', ['POST', 'PUT', 'PATCH', 'DELETE']],
        [`/accounts/${SOURCE}/balance`, 'GET, HEAD', ['POST', 'PUT', 'PATCH', 'DELETE']],
        [`/accounts/${SOURCE}/transfers`, 'GET, HEAD', ['POST', 'PUT', 'PATCH', 'DELETE']],
        [`/transfers/${SOURCE}`, 'GET, HEAD', ['POST', 'PUT', 'PATCH', 'DELETE']],
        [`/jobs/${SOURCE}`, 'GET, HEAD', ['POST', 'PUT', 'PATCH', 'DELETE']],
        ['/health', 'GET, HEAD', ['POST', 'PUT', 'PATCH', 'DELETE']],
        ['/health/ready', 'GET, HEAD', ['POST', 'PUT', 'PATCH', 'DELETE']],
      ] as const) {
        for (const method of methods) {
          for (const sent of [{}, { body: valid['/transfers'] }].slice(0, method === 'GET' ? 1 : 2)) {
            const answer = await http.call(method, path, sent)
            const what = `${method} ${path}`
            t.deepEqual(clear(answer), { status: 405, type: '/problems/method-not-allowed', json: true }, what)
            t.deepEqual((answer.headers.get('Allow') ?? '').split(/,\s*/).sort(), allow.split(', '), what)
          }
        }
      }
      t.deepEqual(await count(), before)
    },
  )

  test.serial(`${backend}: bad input leaves the service as it was`, async (t) => {
    t.is((await http.get('/health/ready')).status, 200)
    const before = await count()
    t.is((await patiently(() => http.post('/transfers', transfer))).status, 202)
    t.true((await count()).jobs > before.jobs)
    const faults = service.log.filter(({ level }) => level >= 50)
    t.deepEqual(
      faults.map(({ msg, path, err }) => `${path} ${msg}: ${(err as Error | undefined)?.message}`),
      [],
    )
  })
}

function clear({ status, headers, body }: Answer) {
  return { status, type: body.type, json: headers.get('Content-Type') === 'application/problem+json' }
}
