/*
 * The OpenAPI document is valid, complete and true: it has every route and no other, and no answer differs from it.
 * (support/client.ts holds every answer of every test against it; here is what the others do not come across.)
 */
import { randomUUID } from 'node:crypto'
import type { Router } from '@koa/router'
import { Validator } from '@seriousme/openapi-schema-validator'
import test from 'ava'
import { createAccess } from '../src/api/access.ts'
import { createApp } from '../src/api/app.ts'
import { createDecisions } from '../src/api/decision.ts'
import { createLive } from '../src/api/live.ts'
import { makeDocument, WITH_BODY } from '../src/api/openapi.ts'
import { PROBLEMS } from '../src/api/problem.ts'
import { type Route, routes } from '../src/api/route.ts'
import { createSubmissions } from '../src/api/submission.ts'
import { createClient as createTypedClient } from '../src/client.ts'
import { openPool } from '../src/db/pool.ts'
import { createApiMetrics } from '../src/metrics.ts'
import { openQueue } from '../src/queue.ts'
import { type Client, createClient, patiently, throwIfUnavailable } from './support/client.ts'
import { compiled, document, holdToDocument } from './support/contract.ts'
import { captureLog, type Service, startService } from './support/harness.ts'
import { startProxy } from './support/proxy.ts'

let service: Service
let http: Client

test.before('start', async () => {
  service = await startService({ backend: 'postgres' })
  http = createClient(service.url)
})

test.after.always('stop', () => service?.stop())

test('a validator of its own finds the document valid', async (t) => {
  const answer = await http.get('/openapi.json')
  t.is(answer.status, 200)
  const valid = await new Validator().validate(JSON.parse(answer.text))
  t.true(valid.valid, JSON.stringify(valid.errors))
  // The control: one that is none.
  const { info, ...rest } = JSON.parse(answer.text)
  t.truthy(info)
  t.false((await new Validator().validate(rest)).valid)
})

test('every route is in the document, and every operation of the document is a route', async (t) => {
  const pool = await openPool({
    databaseUrl: service.databaseUrl,
    connections: 2,
    timeout_ms: 900,
    log: captureLog([]),
  })
  t.teardown(() => pool.end())
  const queue = await openQueue(service.settings)
  t.teardown(() => queue.close())
  const common = { queue, metrics: createApiMetrics(), tracing: undefined, log: captureLog([]) }
  const submissions = createSubmissions({ ...common, batchSize: 1, submissionLimit: 1, queueLimit: 1 })
  t.teardown(submissions.close)
  const access = await createAccess(service.settings, captureLog([]))
  const live = createLive({ ...common, pool, databaseUrl: service.databaseUrl })
  const app = createApp({
    ...common,
    pool,
    submissions,
    decisions: createDecisions(pool),
    live,
    access,
    proxies: 0,
    workers: [],
  })
  const routers = app.middleware.flatMap((layer) => (layer as { router?: Router }).router ?? [])
  const known = () =>
    routers
      .flatMap(({ stack }) => stack)
      // What only says 405.
      .filter(({ methods, path }) => !(path === '/transfers/batch' && methods.includes('GET')))
      .flatMap(({ methods, path }) =>
        methods
          .filter((method) => method !== 'HEAD')
          .map((method) => `${method} ${String(path).replace(/:(\w+)/g, '{$1}')}`),
      )
      .sort()

  // The dashboard is a router of its own, made when somebody looks.
  const documented = operations().filter((name) => name !== 'GET /dashboard')
  t.true(documented.length > 10)
  t.deepEqual(known(), documented)
  // The control: a route that nobody described.
  routers[1]?.get('/accounts/:id/secret', () => {})
  t.notDeepEqual(known(), documented)
})

function operations(): string[] {
  return Object.entries(document.paths)
    .flatMap(([path, item]) => Object.keys(item).map((method) => `${method.toUpperCase()} ${path}`))
    .sort()
}

test('every example is valid where it stands', (t) => {
  let examples = 0
  const walk = (node: unknown, pointer: string): void => {
    if (typeof node !== 'object' || node === null) return
    const { examples: given } = node as { examples?: unknown }
    if (Array.isArray(given)) {
      for (const example of given) {
        const validate = compiled(pointer)
        t.true(validate(example), `${pointer}: ${JSON.stringify(example)}: ${JSON.stringify(validate.errors)}`)
        examples += 1
      }
      // The control: something that no schema of ours takes.
      t.false(compiled(pointer)([[]]), pointer)
    }
    for (const [step, child] of Object.entries(node)) {
      if (step === 'examples') continue
      walk(child, `${pointer}/${encodeURIComponent(step.replaceAll('~', '~0').replaceAll('/', '~1'))}`)
    }
  }
  walk(document, '')
  t.true(examples > 30)
})

test('an answer that is not as documented is caught', async (t) => {
  const id = await http.open('1.00')
  const path = `/accounts/${id}/balance`
  const { status, headers, text } = await http.get(path)
  const changed = (change: (copy: Headers) => void) => {
    const copy = new Headers(headers)
    change(copy)
    return copy
  }
  t.notThrows(() => holdToDocument('GET', path, { status, headers, text }))
  for (const [what, seen] of Object.entries({
    'another status': { status: 202, headers, text },
    'a member more': { status, headers, text: text.replace('{', '{"more":1,') },
    'a member less': { status, headers, text: '{}' },
    'a number for an amount': { status, headers, text: text.replace('"1.00"', '1') },
    'an upper-case name': { status, headers, text: text.replace('balance', 'Balance') },
    'another type': { status, headers: changed((copy) => copy.set('Content-Type', 'text/plain')), text },
    'no request id': { status, headers: changed((copy) => copy.delete('X-Request-ID')), text },
    'a header more': { status, headers: changed((copy) => copy.set('X-Powered-By', 'chance')), text },
  })) {
    t.throws(() => holdToDocument('GET', path, seen), { message: /not in the document/ }, what)
  }
})

test('every status of every route is produced, and is as documented', async (t) => {
  const [source, destination, key] = [await http.open('10.00'), await http.open(), randomUUID()]
  const transfer = { source, destination, amount: '1.00' }
  const now = { Prefer: 'wait=20', 'Idempotency-Key': key }
  const seen = new Set<string>()
  const see = async (route: string, method: string, path: string, sent: Parameters<Client['call']>[2] = {}) => {
    const answer = await patiently(() => http.call(method, path, sent))
    seen.add(`${method} ${route} ${answer.status}`)
    return answer
  }
  for (const headers of [now, now, {}]) await see('/transfers', 'POST', '/transfers', { body: transfer, headers })
  await see('/transfers', 'POST', '/transfers', { body: { ...transfer, amount: '2' }, headers: now })
  await see('/transfers/batch', 'POST', '/transfers/batch', { body: { transfers: [{ ...transfer, key: 'b' }] } })
  await see('/transfers/batch', 'POST', '/transfers/batch', {
    body: { transfers: [{ key, ...transfer, amount: '3' }] },
  })
  for (const body of [{}, { id: source }, { balance: '5' }]) await see('/accounts', 'POST', '/accounts', { body })
  for (const route of ['/accounts', '/transfers', '/transfers/batch']) {
    await see(route, 'POST', route, { body: '{' })
    await see(route, 'POST', route, { body: '{}', headers: { 'Content-Type': 'text/plain' } })
    await see(route, 'POST', route, { body: ' '.repeat(600_000) })
  }
  const decision = await see('/transfers', 'POST', '/transfers', { body: transfer, headers: now })
  const { body: later } = await see('/transfers', 'POST', '/transfers', { body: transfer })
  const ids = { '/transfers/{id}': decision.body.id, '/jobs/{id}': later.job, '/accounts/{id}': source }
  const subresources = Object.fromEntries(
    ['balance', 'transfers', 'history'].map((name) => [`/accounts/{id}/${name}`, source]),
  )
  for (const [route, id] of Object.entries({ ...ids, ...subresources })) {
    for (const given of [id, randomUUID(), 'nobody']) await see(route, 'GET', route.replace('{id}', String(given)))
  }
  for (const query of [`?source=${source}&key=${key}`, `?source=${source}&key=never`, '?source=nobody']) {
    await see('/transfers', 'GET', `/transfers${query}`)
  }
  for (const route of ['/health', '/health/ready', '/metrics', '/docs', '/redoc']) await see(route, 'GET', route)
  for (const [route, path] of Object.entries({
    '/': '/',
    '/console/{name}': '/console/console.css',
    '/openapi.json': '/openapi.json',
  })) {
    const etag = (await see(route, 'GET', path)).headers.get('ETag') ?? ''
    await see(route, 'GET', path, { headers: unlessChanged(etag) })
  }
  await see('/console/{name}', 'GET', '/console/nothing.js')
  for (const file of ['swagger-ui.css', 'package.json']) await see('/docs/{file}', 'GET', `/docs/${file}`)
  for (const type of ['key-reused', 'nothing']) await see('/problems/{type}', 'GET', `/problems/${type}`)

  // And with the database away, in which the queue is.
  const proxy = await startProxy(service.databaseUrl)
  const cut = await startService({
    ...{ backend: 'postgres', workers: 0, database: service.databaseUrl, settings: { DATABASE_URL: proxy.url } },
  })
  t.teardown(async () => {
    await proxy.restore()
    await cut.stop()
    await proxy.close()
  })
  const away = createClient(cut.url, { patient: false })
  await proxy.refuse()
  for (const [operation, { problems = [] }] of Object.entries<Route>(routes)) {
    if (!problems.includes('unavailable')) continue
    const [method = '', route = ''] = operation.split(' ')
    const bodies: Record<string, object> = { '/transfers/batch': { transfers: [transfer] }, '/accounts': {} }
    const body = method === 'POST' ? (bodies[route] ?? transfer) : undefined
    const query = operation === 'GET /transfers' ? `?source=${source}&key=${key}` : ''
    const answer = await away.call(method, `${route.replace('{id}', randomUUID())}${query}`, { body })
    seen.add(`${operation} ${answer.status}`)
  }

  // What a route has of its own; what may happen before any of them has tests elsewhere, as has the end of a live view.
  const missing = Object.entries<Route>(routes).flatMap(([operation, { answers, problems = [], body }]) => {
    const own = [...problems, ...(body ? WITH_BODY : [])].map((type) => PROBLEMS[type][0])
    const statuses = new Set([...Object.keys(answers).map(Number), ...own])
    return [...statuses].map((status) => `${operation} ${status}`).filter((what) => !seen.has(what))
  })
  t.deepEqual(missing, ['GET /dashboard 200', 'GET /live 200', 'GET /live 503'])
})

/** By itself, fetch would ask all caches to stand back. */
const unlessChanged = (etag: string) => ({ 'If-None-Match': etag, 'Cache-Control': 'max-age=0' })

test('the document is kept until it changes', async (t) => {
  const first = await http.get('/openapi.json')
  const etag = first.headers.get('ETag') ?? ''
  const again = await http.get('/openapi.json', unlessChanged(etag))
  t.deepEqual([again.status, again.text], [304, ''])
  t.is((await http.get('/openapi.json', unlessChanged('"another"'))).status, 200)
  t.deepEqual(JSON.parse(first.text), JSON.parse(JSON.stringify(makeDocument())))
})

test('the pages are complete, and load nothing from elsewhere', async (t) => {
  for (const path of ['/docs', '/redoc']) {
    const { status, headers, text } = await http.get(path)
    t.is(status, 200)
    t.regex(headers.get('Content-Type') ?? '', /^text\/html/)
    t.notRegex(text, /https?:|["'(]\/\//)
    t.notRegex(text, /<script>|\son\w+=|style=/)
    const loaded = [...text.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, url]) => String(url))
    t.true(loaded.length >= 2)
    for (const url of loaded) {
      const file = await http.get(url)
      t.is(file.status, 200, url)
      const type = url.endsWith('.css') ? /^text\/css/ : url.endsWith('.png') ? /^image\/png/ : /javascript/
      t.regex(file.headers.get('Content-Type') ?? '', type)
      t.true(file.text.length > 50)
    }
  }
  for (const file of ['package.json', 'index.html', '..%2fpackage.json', '..%2f..%2fkoa%2fpackage.json', '%00', '.']) {
    const { status, text } = await http.get(`/docs/${file}`)
    t.true(status === 404 || file === '.', `${file}: ${status} ${text.slice(0, 100)}`)
  }
})

test('the URI of every type of problem says what it means', async (t) => {
  for (const [type, [status, title]] of Object.entries(PROBLEMS)) {
    const { body } = await http.get(`/problems/${type}`)
    t.like(body, { type: `/problems/${type}`, title, status })
    t.true(String(body.detail).length > 20)
  }
  t.is((await http.get('/problems/constructor')).status, 404)
})

test('the typed client speaks to the service', async (t) => {
  const repeating: typeof fetch = (...sent) =>
    patiently(async () => {
      const answer = await fetch(...sent)
      throwIfUnavailable({ status: answer.status, text: await answer.clone().text() })
      return answer
    })
  const client = createTypedClient(service.url, { token: 'none-is-needed', fetch: repeating })
  const source = await http.open('10.00')
  const opened = await client.call('POST /accounts', { body: { balance: '1' }, headers: { Prefer: 'wait=20' } })
  if (!opened.ok) throw new Error(opened.body.detail)
  t.is(opened.body.funding?.status, 'posted')

  const body = { source, destination: opened.body.id, amount: 3 }
  const headers = { Prefer: 'wait=20', 'Idempotency-Key': 'Grüße ✓' }
  const first = await client.call('POST /transfers', { body, headers })
  const again = await client.call('POST /transfers', { body, headers })
  if (!first.ok || !again.ok) throw new Error('not taken')
  t.is(first.status, 200)
  t.deepEqual(again.body, first.body)
  t.is(again.headers.get('Idempotent-Replayed'), 'true')
  const params = { id: first.body.id }
  t.deepEqual((await client.call('GET /transfers/{id}', { params })).body, first.body)

  const page = await client.call('GET /accounts/{id}/transfers', { params: { id: source }, query: { limit: '1' } })
  if (!page.ok) throw new Error(page.body.detail)
  t.is(page.body.transfers[0]?.id, first.body.id)
  t.is((await client.call('GET /health')).status, 204)

  const refused = await client.call('GET /accounts/{id}', { params: { id: 'a/../b?c' } })
  if (refused.ok) throw new Error('taken')
  t.is(refused.body.type, '/problems/invalid-request')

  // @ts-expect-error: what a route needs cannot be left out,
  await client.call('GET /transfers/{id}').catch(() => {})
  // @ts-expect-error: nor misspelled,
  await client.call('POST /transfers', { body: { source, to: source, amount: '1' } })
  // @ts-expect-error: and there are no other routes.
  await client.call('GET /nowhere')
})
