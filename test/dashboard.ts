/*
 * The dashboard: shows the jobs to whom it should, lets nobody lose an accepted transfer, and a failed job that is retried
 * from it decides nothing twice.
 */
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import test, { type ExecutionContext } from 'ava'
import Koa from 'koa'
import type { Caller, Scope } from '../src/api/access.ts'
import { dashboard } from '../src/api/dashboard.ts'
import { problems } from '../src/api/problem.ts'
import { openQueue, packTransfers } from '../src/queue.ts'
import { balance, balanced, chain, open, request } from './support/books.ts'
import { createClient } from './support/client.ts'
import {
  type Backend,
  backends,
  captureLog,
  insist,
  openPatientQueue,
  type Service,
  startService,
  until,
} from './support/harness.ts'

/** A service and its queue, with one job that failed for one of its six transfers. */
async function useFailedJob(t: ExecutionContext, backend: Backend) {
  const service = await startService({ backend })
  t.teardown(service.stop)
  const queue = await openPatientQueue(service.settings)
  t.teardown(() => queue.close())
  const [source, destination] = [await open(service.pool, '100'), await open(service.pool)]
  const good = Array.from({ length: 5 }, () => request(source, destination, '1'))
  const poison = request(source, source, '1')
  const jobId = randomUUID()
  await queue.add('post', packTransfers([...good, poison]), { jobId })
  await until(async () => (await queue.getJobState(jobId)) === 'failed')
  const jobs = `/dashboard/api/queues/${service.settings.QUEUE_NAME}`
  return { service, http: createClient(service.url), queue, source, destination, good, poison, jobId, jobs }
}

async function expectDecidedOnce(t: ExecutionContext, service: Service, source: string, good: { id: string }[]) {
  const ids = (await chain(service.pool, source)).map((transfer) => transfer.id)
  t.deepEqual(ids.sort(), good.map(({ id }) => id).sort())
  await balanced(t, service.databaseUrl)
}

for (const backend of backends) {
  test.serial(`${backend}: shows the queue and a failed job, from local files alone`, async (t) => {
    const { http, jobs, jobId, poison, service } = await useFailedJob(t, backend)
    const page = await http.get('/dashboard')
    t.is(page.status, 200)
    t.regex(page.headers.get('Content-Security-Policy') ?? '', /default-src 'self'.*frame-ancestors 'none'/)
    const assets = [...page.text.matchAll(/(?:src|href)="((?:\/dashboard\/)?static\/[^"]+)"/g)].map(([, path]) => path)
    t.true(assets.length > 3, page.text)
    for (const asset of assets) {
      const { status, text } = await http.get(`/dashboard/${asset?.replace('/dashboard/', '')}`)
      t.is(status, 200, asset)
      t.true(text.length > 0)
    }
    const overview = await http.get<{ queues: { name: string; counts: { failed: number } }[] }>('/dashboard/api/queues')
    t.deepEqual(
      overview.body.queues.map(({ name, counts }) => [name, counts.failed]),
      [[service.settings.QUEUE_NAME, 1]],
    )
    const job = await http.get(`${jobs}/${jobId}`)
    t.is(job.status, 200)
    t.true(job.text.includes(poison.id))
    t.is((await http.get('/dashboards')).status, 404)
  })

  test.serial(`${backend}: a failed job is retried, and what it had decided stays decided once`, async (t) => {
    const { service, http, queue, jobs, jobId, source, destination, good } = await useFailedJob(t, backend)
    await expectDecidedOnce(t, service, source, good)
    const attempts = async () => (await queue.getJob(jobId))?.attemptsMade ?? 0
    const finished = async () => (await queue.getJob(jobId))?.finishedOn ?? 0
    const [failedAttempts, failedAt] = [await attempts(), await finished()]
    const failures = () => service.log.filter(({ msg }) => msg === 'job failed').length
    for (const path of [`${jobs}/${jobId}/retry`, `${jobs}/retry/failed`]) {
      const before = failures()
      const answer = await http.call('PUT', path)
      t.true(answer.status < 300, `${path}: ${answer.status} ${answer.text}`)
      await until(() => failures() > before)
      await until(async () => (await queue.getJobState(jobId)) === 'failed')
      await expectDecidedOnce(t, service, source, good)
    }
    t.true((await attempts()) > failedAttempts || (await finished()) > failedAt)
    t.is(await balance(service.pool, destination), '5')
  })

  test.serial(`${backend}: a job that was cured is retried and completes`, async (t) => {
    const { service, http, queue, jobs, jobId, source, destination, good } = await useFailedJob(t, backend)
    const job = await queue.getJob(jobId)
    const cured = request(source, destination, '1')
    await insist(async () => await job?.updateData(packTransfers([...good, cured])))
    t.true((await http.call('PUT', `${jobs}/${jobId}/retry`)).status < 300)
    await until(async () => (await queue.getJobState(jobId)) === 'completed')
    await expectDecidedOnce(t, service, source, [...good, cured])
    t.is(await balance(service.pool, destination), '6')
  })

  test.serial(`${backend}: nobody loses, changes or adds a job here, and no other page acts`, async (t) => {
    const { http, queue, jobs, jobId } = await useFailedJob(t, backend)
    for (const [method, path] of [
      ['PUT', `${jobs}/obliterate`],
      ['PUT', `${jobs}/empty`],
      ['PUT', `${jobs}/clean/failed`],
      ['PUT', `${jobs}/clean/retry`],
      ['PUT', `${jobs}/${jobId}/clean`],
      ['PATCH', `${jobs}/${jobId}/update-data`],
      ['POST', `${jobs}/add`],
      ['PUT', `${jobs}/job-schedulers/sweep/remove`],
    ] as const) {
      const answer = await http.call(method, path, { body: {} })
      t.is(answer.status, 403, path)
      t.is(answer.body.type, '/problems/forbidden')
    }
    for (const headers of [
      { Origin: 'https://elsewhere.example' },
      { Origin: 'null' },
      { 'Sec-Fetch-Site': 'cross-site' },
      { 'Sec-Fetch-Site': 'same-site' },
    ] as Record<string, string>[]) {
      t.is((await http.call('PUT', `${jobs}/${jobId}/retry`, { headers })).status, 403, JSON.stringify(headers))
    }
    t.is(await queue.getJobState(jobId), 'failed')
    t.truthy(await until(() => queue.getJobScheduler('sweep')))
    t.is((await http.call('PUT', `${jobs}/pause`)).status, 200)
    t.true(await queue.isPaused())
    t.is((await http.call('PUT', `${jobs}/resume`)).status, 200)
    t.false(await queue.isPaused())
  })
}

/** The dashboard alone, for a caller with just these scopes, or for nobody known. */
async function serve(t: ExecutionContext, service: Service, scopes: Scope[] | undefined) {
  const queue = await openQueue(service.settings)
  queue.on('error', () => {})
  t.teardown(() => queue.close())
  const caller: Caller | undefined = scopes && { name: 'somebody', scopes: new Set(scopes) }
  const app = new Koa()
  app.use(problems(captureLog([])))
  app.use((ctx, next) => {
    ctx.state.caller = caller
    return next()
  })
  app.use(dashboard(queue))
  const server = createServer(app.callback()).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return createClient(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)
}

test.serial('who may not operate sees nothing of it, and a browser is asked who it is', async (t) => {
  const { service, jobs, jobId, queue } = await useFailedJob(t, 'postgres')
  const retry = `${jobs}/${jobId}/retry`
  const pages = ['/dashboard', '/dashboard/api/queues', `${jobs}/${jobId}`]

  const operator = await serve(t, service, ['operate'])
  for (const page of pages) t.is((await operator.get(page)).status, 200)

  const others = await serve(t, service, ['read', 'transfers:write', 'accounts:write'])
  for (const page of pages) t.is((await others.get(page)).status, 403)
  t.is((await others.call('PUT', retry)).status, 403)

  const nobody = await serve(t, service, undefined)
  for (const page of pages) {
    const answer = await nobody.call('GET', page, { headers: { Accept: 'text/html' } })
    t.is(answer.status, 401)
    t.regex(answer.headers.get('WWW-Authenticate') ?? '', /Basic /)
  }
  t.is((await nobody.call('PUT', retry)).status, 401)
  t.is(await queue.getJobState(jobId), 'failed')
  t.is((await operator.call('PUT', retry)).status < 300, true)
})
