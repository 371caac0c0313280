/*
 * Bad input gets a clear 4xx and changes nothing: here, what is asked for, and with which parameters and methods.
 */
import { randomUUID } from 'node:crypto'
import { request } from 'node:http'
import test, { type ExecutionContext } from 'ava'
import type { Answer } from './support/client.ts'
import { backends } from './support/harness.ts'
import { type Case, type Gate, INVALID, SOURCE, startGate, valid } from './support/refusal.ts'

for (const backend of backends) {
  let gate: Gate

  test.before(`${backend}: start`, async () => {
    gate = await startGate(backend)
  })

  test.after.always(`${backend}: stop`, () => gate?.stop())

  const refuse = (t: ExecutionContext, cases: Case[]) => gate.refuse(t, cases)

  test.serial(`${backend}: an id in the address that is no UUID is refused`, async (t) => {
    const cases: Case[] = []
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
    t.is(
      (await gate.http.get(`${statement}?cursor=${cursor({ sent: 1, received: ['1', moment, id, 0] })}`)).status,
      200,
    )
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
    const before = await gate.count()
    const body = valid['/transfers']
    const { port } = new URL(gate.service.url)
    const twice = ['Content-Type', 'application/json', 'Idempotency-Key', 'a', 'Idempotency-Key', 'b']
    const status = await new Promise<number | undefined>((done) => {
      request({ port, path: '/transfers', method: 'POST', headers: ['Host', 'localhost', ...twice] }, (answer) => {
        answer.resume()
        done(answer.statusCode)
      }).end(body)
    })
    t.is(status, 400)
    t.deepEqual(await gate.count(), before)
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
      const before = await gate.count()
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
            const answer = await gate.http.call(method, path, sent)
            const what = `${method} ${path}`
            t.deepEqual(clear(answer), { status: 405, type: '/problems/method-not-allowed', json: true }, what)
            t.deepEqual((answer.headers.get('Allow') ?? '').split(/,\s*/).sort(), allow.split(', '), what)
          }
        }
      }
      t.deepEqual(await gate.count(), before)
    },
  )

  test.serial(`${backend}: bad input leaves the service as it was`, (t) => gate.expectUnharmed(t))
}

function clear({ status, headers, body }: Answer) {
  return { status, type: body.type, json: headers.get('Content-Type') === 'application/problem+json' }
}
