/*
 * The log: one JSON line per event. At info nothing about requests that went as they should; at debug a line per request,
 * and one per transfer submitted and decided, which together lead from a request to what became of it.
 */
import test, { type ExecutionContext } from 'ava'
import { createClient, patiently } from './support/client.ts'
import { backends, type LogLine, startService } from './support/harness.ts'
import { openFunded, spawnPart } from './support/part.ts'

/** API and worker as processes; some transfers; everything they said, line by line. */
async function speak(t: ExecutionContext, backend: (typeof backends)[number], LOG_LEVEL: string) {
  const service = await startService({ backend, workers: 0 })
  t.teardown(service.stop)
  const { DATABASE_URL, REDIS_URL, QUEUE_NAME } = service.settings
  const environment = { DATABASE_URL, REDIS_URL, QUEUE_NAME, LOG_LEVEL }
  const parts = [spawnPart('api', environment), spawnPart('worker', environment)] as const
  const [url] = await Promise.all(parts.map(({ ready }) => ready))
  const http = createClient(url ?? '')
  const [source, destination] = await openFunded(service, '10', '0')
  let requests = 0
  const submit = (amount: string) =>
    patiently(() => {
      const headers = { Prefer: 'wait=20', 'X-Request-ID': `number-${++requests}` }
      return http.post('/transfers', { source, destination, amount }, headers)
    })
  const [posted, rejected] = [await submit('4'), await submit('40')]
  await http.get('/nowhere')
  for (const part of parts) {
    part.process.kill('SIGTERM')
    t.is(await part.exited, 0)
  }
  const said = parts.flatMap((part) => part.said().split('\n').filter(Boolean))
  const lines = said.map((line) => JSON.parse(line) as LogLine)
  const request_id = posted.headers.get('X-Request-ID') ?? ''
  return { lines, request_id, posted: posted.body, rejected: rejected.body }
}

for (const backend of backends) {
  test.serial(`${backend}: at debug, a request leads to its transfer, its job and the outcome`, async (t) => {
    const { lines, request_id, posted, rejected } = await speak(t, backend, 'debug')
    const only = (msg: string, match: Partial<LogLine>) => {
      const found = lines.filter(
        (line) => line.msg === msg && Object.entries(match).every(([key, value]) => line[key] === value),
      )
      t.is(found.length, 1, `${msg} ${JSON.stringify(match)}`)
      return found[0]
    }
    const request = only('request', { request_id })
    t.like(request, { part: 'api', method: 'POST', route: '/transfers', status: 200 })
    t.true(Number(request?.duration_ms) > 0)
    const submitted = only('submitted', { request_id })
    t.like(submitted, { part: 'api', transfer: posted.id })
    t.like(only('decided', { transfer: posted.id }), { part: 'worker', job: submitted?.job, outcome: 'posted' })
    t.like(only('decided', { transfer: rejected.id }), { outcome: 'insufficient_funds' })
    only('request', { method: 'GET', route: 'none', status: 404 })
  })
}

test.serial('at info, requests and transfers that went as they should are not mentioned', async (t) => {
  const { lines, posted } = await speak(t, 'postgres', 'info')
  t.true(lines.some(({ msg }) => msg === 'listening'))
  t.deepEqual(
    lines.filter(({ level }) => level < 30),
    [],
  )
  t.false(JSON.stringify(lines).includes(posted.id ?? 'none'))
  t.false(JSON.stringify(lines).includes('number-'))
})
