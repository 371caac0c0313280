/*
 * Whose it is, beyond access.ts: histories, transfers by key and in the queue, accounts half opened; who writes from
 * another site's page or under another's name.
 */
import { hash, randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { type IncomingMessage, request } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text as readText } from 'node:stream/consumers'
import { Router } from '@koa/router'
import test, { type ExecutionContext } from 'ava'
import Koa from 'koa'
import { createAccess } from '../src/api/access.ts'
import { accountRoutes } from '../src/api/account.ts'
import { createDecisions } from '../src/api/decision.ts'
import { createJobs } from '../src/api/job.ts'
import { createOwners, type Owners } from '../src/api/owner.ts'
import { problems } from '../src/api/problem.ts'
import { createSubmissions } from '../src/api/submission.ts'
import { SCOPES } from '../src/api/token.ts'
import { transferRoutes } from '../src/api/transfer.ts'
import { openPool } from '../src/db/pool.ts'
import { createApiMetrics } from '../src/metrics.ts'
import { openQueue } from '../src/queue.ts'
import { fundingId } from '../src/transfer.ts'
import { createClient, patiently, throwIfUnavailable } from './support/client.ts'
import { backends, captureLog, type Service, startService, until } from './support/harness.ts'

const bearer = (token: string) => ({ Authorization: `Bearer ${token}` })
const scopes = ['accounts:write', 'transfers:write', 'read']
const callers = { alice: scopes, bob: scopes, carol: scopes, boss: SCOPES, chief: SCOPES }

const folder = await mkdtemp(join(tmpdir(), 'transfer-ownership-'))
const tokens = join(folder, 'tokens.json')
const records = Object.entries(callers).map(([name, scopes]) => ({ name, scopes, sha256: hash('sha256', name) }))
await writeFile(tokens, JSON.stringify(records))
test.after.always(() => rm(folder, { recursive: true }))

/** The routes of accounts and transfers alone, with whatever `owners` say. @returns its URL. */
async function serve(t: ExecutionContext, { settings, databaseUrl }: Service, owners?: Owners): Promise<string> {
  const log = captureLog([])
  const pool = await openPool({ databaseUrl, connections: 2, timeout_ms: 900, log })
  const queue = await openQueue(settings)
  const common = { queue, metrics: createApiMetrics(), tracing: undefined, log }
  const submissions = createSubmissions({ ...common, batchSize: 1, submissionLimit: 9, queueLimit: 9 })
  const own = { decisions: createDecisions(pool), jobs: createJobs(queue), owners: owners ?? createOwners(pool) }
  const router = new Router()
  transferRoutes(router, router, { ...common, ...own, submissions })
  accountRoutes(router, { ...common, ...own, submissions, pool })
  const { authenticate } = await createAccess(settings, log)
  const server = new Koa().use(problems(log)).use(authenticate).use(router.routes()).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(async () => {
    server.close()
    server.closeAllConnections()
    submissions.close()
    await queue.close()
    await pool.end()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

type Case = readonly [who: string, path: string, status: number]

/** The checker of ownership. @returns what is not answered as it must be. */
async function wrong(url: string, cases: readonly Case[]): Promise<string[]> {
  const http = createClient(url)
  const asked = cases.map(async ([who, path, status]) => {
    const answer = await http.get(path, bearer(who))
    return answer.status === status ? [] : [`${who} ${path}: ${answer.status}`]
  })
  return (await Promise.all(asked)).flat()
}

for (const backend of backends) {
  test(`${backend}: histories, keys and what is queued are for the parties; a careless API is caught`, async (t) => {
    const service = await startService({ backend, settings: { AUTH_TOKENS_FILE: tokens } })
    t.teardown(service.stop)
    const http = createClient(service.url)
    const open = async (who: string, id?: string, balance?: string) =>
      await http.post('/accounts', { id, balance }, { ...bearer(who), Prefer: 'wait=20' })
    const pay = async (who: string, source: string, destination: string, key: string, wait = 20) => {
      const headers = { ...bearer(who), 'Idempotency-Key': key, Prefer: `wait=${wait}` }
      return await http.post('/transfers', { source, destination, amount: '10' }, headers)
    }
    const opened = [await open('boss', undefined, '100'), await open('alice'), await open('carol')]
    t.deepEqual([...new Set(opened.map(({ status }) => status))], [201])
    const [rich = '', alices = '', carols = ''] = opened.map(({ body }) => body.id)
    t.is((await pay('boss', rich, alices, 'wages')).status, 200)
    t.is((await pay('alice', alices, carols, 'rent')).body.status, 'posted')

    const { half, taken } = await until(async () => {
      // Opened by the boss, and broken off before its money was queued.
      const half = randomUUID()
      await service.pool.query("SELECT ledger.open_account($1, 5, owner => 'boss')", [half])
      t.is((await open('chief', half, '5')).status, 409)
      t.is((await open('bob', half, '5')).status, 403)
      t.is((await open('bob', half)).status, 409)
      t.deepEqual(await wrong(service.url, [['boss', `/transfers/${fundingId(half)}`, 404]]), [])
      t.is((await http.get(`/accounts/${half}/balance`, bearer('boss'))).body.balance, '0')
      // The control: its owner takes it up. It is funded by now if an attempt that was answered 503 has got through.
      const taken = await open('boss', half, '5')
      return taken.status !== 409 && { half, taken }
    })
    t.is(taken.body.funding?.status, 'posted')
    t.is((await http.get(`/accounts/${half}/balance`, bearer('boss'))).body.balance, '5')

    await service.stopWorkers()
    const queued = await pay('alice', alices, carols, 'next', 0)
    t.is(queued.status, 202, queued.text)
    const history = [`/accounts/${alices}/history`, `/accounts/${alices}/history?points=2`]
    const transfers = [
      ...['rent', 'next'].map((key) => `/transfers?source=${alices}&key=${key}`),
      ...['', `?job=${queued.body.job}`].map((hint) => `/transfers/${queued.body.id}${hint}`),
    ]
    const asked = (who: string, paths: string[], status: number) => paths.map((path): Case => [who, path, status])
    const allowed = [
      ...['alice', 'boss', 'chief'].flatMap((who) => asked(who, [...history, ...transfers], 200)),
      ...asked('carol', transfers, 200),
    ]
    const refused = [
      ...['bob', 'carol'].flatMap((who) => asked(who, history, 403)),
      ...asked('bob', [`/accounts/${randomUUID()}/history`], 403),
      ...asked('bob', transfers, 404),
    ]
    t.deepEqual(await wrong(service.url, [...allowed, ...refused]), [])
    t.deepEqual(await wrong(await serve(t, service), [...allowed, ...refused]), [])
    // The negative control: the same routes where everyone owns everything. All that was refused gets through.
    const careless = await serve(t, service, { allow: async () => true, demand: async () => {} })
    t.deepEqual(await wrong(careless, allowed), [])
    t.is((await wrong(careless, refused)).length, refused.length)
  })
}

/** As fetch cannot: under whatever Host. @returns the status, and what is in the answer. */
function ask(url: string, method: string, headers: Record<string, string>): Promise<{ status: number; text: string }> {
  return patiently(async () => {
    const sent = request(`${url}/accounts`, { method, headers: { 'Content-Type': 'application/json', ...headers } })
    sent.end(method === 'POST' ? '{}' : undefined)
    const [answer] = (await once(sent, 'response')) as [IncomingMessage]
    const seen = { status: answer.statusCode ?? 0, text: await readText(answer) }
    throwIfUnavailable(seen)
    return seen
  })
}

test("no page of another site writes here, and without tokens nobody's name but localhost is answered", async (t) => {
  const open = await startService({ backend: 'postgres', workers: 0 })
  t.teardown(open.stop)
  const settings = { AUTH_TOKENS_FILE: tokens }
  const guarded = await startService({ backend: 'postgres', workers: 0, database: open.databaseUrl, settings })
  t.teardown(guarded.stop)
  const count = async () => (await open.pool.query('SELECT count(*) FROM ledger.account')).rows[0].count
  const before = await count()
  const elsewhere: Record<string, string>[] = [
    ...['cross-site', 'same-site', 'anything'].map((site) => ({ 'Sec-Fetch-Site': site })),
    ...['https://elsewhere.example', 'http://127.0.0.1:1', 'null', ''].map((origin) => ({ Origin: origin })),
  ]
  for (const headers of elsewhere) {
    const what = JSON.stringify(headers)
    t.is((await ask(open.url, 'POST', headers)).status, 403, what)
    t.is((await ask(guarded.url, 'POST', { ...bearer('alice'), ...headers })).status, 403, what)
  }
  const { port } = new URL(open.url)
  for (const host of ['rebound.example', `rebound.example:${port}`, '127.0.0.1.rebound.example', 'localhost.example']) {
    // To the browser, the page and the service are one site.
    const headers = { Host: host, Origin: `http://${host}`, 'Sec-Fetch-Site': 'same-origin' }
    for (const method of ['POST', 'GET']) t.is((await ask(open.url, method, headers)).status, 403, `${method} ${host}`)
    t.is((await ask(guarded.url, 'POST', headers)).status, 401)
  }
  t.is(await count(), before)
  const opened: string[] = []
  // The controls: the service's own page, no page at all, and a name of its own where tokens are wanted.
  const own = { Origin: open.url, 'Sec-Fetch-Site': 'same-origin' }
  const local = ['localhost', `LOCALHOST:${port}`, `[::1]:${port}`, '127.1.2.3'].map((host) => ({ Host: host }))
  for (const headers of [own, { 'Sec-Fetch-Site': 'none' }, {}, ...local] as Record<string, string>[]) {
    const { status, text } = await ask(open.url, 'POST', headers)
    t.is(status, 201, JSON.stringify(headers))
    opened.push(JSON.parse(text).id)
  }
  const named = { Host: 'transfer.example', Origin: 'https://transfer.example', 'Sec-Fetch-Site': 'same-origin' }
  const { status, text } = await ask(guarded.url, 'POST', { ...bearer('alice'), ...named })
  t.is(status, 201)
  opened.push(JSON.parse(text).id)
  const { rows } = await open.pool.query('SELECT id FROM ledger.account WHERE id = ANY ($1)', [opened])
  t.is(rows.length, 8)
})
