/*
 * What all answers have in common: request ids, problems, methods, health.
 */
import { randomUUID } from 'node:crypto'
import test from 'ava'
import { SERVICE_ACCOUNT } from '../src/transfer.ts'
import { type Body, type Client, createClient } from './support/client.ts'
import { backends, type Service, startService } from './support/harness.ts'

const MADE_ID = /^[\w-]{8,40}$/

for (const backend of backends) {
  let service: Service
  let http: Client

  test.before(`${backend}: start`, async () => {
    service = await startService({ backend })
    http = createClient(service.url)
  })

  test.after.always(`${backend}: stop`, () => service?.stop())

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
      ['/transfers', 'GET, HEAD, POST'],
      [`/accounts/${id}`, 'GET, HEAD'],
    ] as const) {
      const { status, headers } = await http.call('OPTIONS', path)
      t.true(status === 200 || status === 204, path)
      t.deepEqual(methods(headers), methods(new Headers({ Allow: allow })), path)
    }
  })
}

function methods(headers: Headers): string[] {
  return (headers.get('Allow') ?? '').split(/,\s*/).sort()
}
