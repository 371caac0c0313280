/*
 * Traces: one from the request to the SQL, in the trace that the client began; what requests share is linked to each of
 * them; and nothing is sent where nothing is sampled.
 */
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import test, { type ExecutionContext } from 'ava'
import { type Client, createClient, patiently } from './support/client.ts'
import { type Backend, backends, startService } from './support/harness.ts'
import { openFunded, spawnPart } from './support/part.ts'

type Span = {
  name: string
  kind: number
  traceId: string
  spanId: string
  parentSpanId?: string
  attributes: { key: string; value: { stringValue?: string; intValue?: number } }[]
  links?: { traceId: string; spanId: string }[]
  /** Of its process. */
  part: string | undefined
  service: string | undefined
}

/** Takes what an OTLP exporter sends over HTTP as JSON. */
async function startCollector(t: ExecutionContext) {
  const spans: Span[] = []
  let calls = 0
  const server = createServer(async (request, response) => {
    calls += 1
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk as Buffer)
    const sent = JSON.parse(Buffer.concat(chunks).toString()) as {
      resourceSpans: { resource: Pick<Span, 'attributes'>; scopeSpans: { spans: Span[] }[] }[]
    }
    if (request.url === '/v1/traces') {
      for (const { resource, scopeSpans } of sent.resourceSpans) {
        const part = attribute(resource, 'transfer.part')
        const service = attribute(resource, 'service.name')
        for (const span of scopeSpans.flatMap((scope) => scope.spans)) spans.push({ ...span, part, service })
      }
    }
    response.writeHead(200, { 'Content-Type': 'application/json' }).end('{}')
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return { endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, spans, calls: () => calls }
}

function attribute({ attributes }: Pick<Span, 'attributes'>, name: string): string | undefined {
  const value = attributes.find(({ key }) => key === name)?.value
  return value?.stringValue ?? value?.intValue?.toString()
}

/** All of it begins anew where a store was late: every span counts. @param work sends nothing that is safe to repeat. */
const traced = (...what: Parameters<typeof trace>) => patiently(() => trace(...what))

/** API and worker as processes that trace; stopped, so that all is sent, when the work is done. */
async function trace(
  t: ExecutionContext,
  backend: Backend,
  environment: Record<string, string>,
  work: (http: Client, accounts: string[]) => Promise<unknown>,
) {
  const collector = await startCollector(t)
  const service = await startService({ backend, workers: 0 })
  t.teardown(service.stop)
  const { DATABASE_URL, REDIS_URL, QUEUE_NAME } = service.settings
  const env = { DATABASE_URL, REDIS_URL, QUEUE_NAME, OTEL_EXPORTER_OTLP_ENDPOINT: collector.endpoint, ...environment }
  const parts = [spawnPart('api', env), spawnPart('worker', env)]
  const [url] = await Promise.all(parts.map(({ ready }) => ready))
  try {
    await work(createClient(url ?? ''), await openFunded(service, '1000', '0'))
  } finally {
    for (const part of parts) {
      part.process.kill('SIGTERM')
      t.is(await part.exited, 0, part.said())
    }
  }
  return collector
}

const TRACE = '0af7651916cd43dd8448eb211c80319c'
const CLIENT = 'b7ad6b7169203331'

for (const backend of backends) {
  test.serial(
    `${backend}: one trace leads from the client's span over the request and the job to the SQL`,
    async (t) => {
      const { spans } = await traced(t, backend, { OTEL_SERVICE_NAME: 'bank' }, async (http, [source, destination]) => {
        const headers = { Prefer: 'wait=20', traceparent: `00-${TRACE}-${CLIENT}-01`, 'X-Request-ID': 'the-one' }
        t.is((await http.post('/transfers', { source, destination, amount: '1' }, headers)).body.status, 'posted')
      })
      const parents = new Map(spans.map((span) => [span.spanId, span]))
      const calls = (span: Span) => attribute(span, 'sql')?.includes('ledger.post_transfers') ?? false
      const [sql, ...others] = spans.filter((span) => span.traceId === TRACE && calls(span))
      t.deepEqual(others, [])
      const path: string[] = []
      let span = sql
      for (; span && span.spanId !== CLIENT; span = parents.get(span.parentSpanId ?? '')) {
        path.unshift(`${span.part}: ${span.name}`)
        if (span.kind === 2) {
          t.is(span.parentSpanId, CLIENT)
          t.is(attribute(span, 'http.route'), '/transfers')
          t.is(attribute(span, 'http.response.status_code'), '200')
          t.is(attribute(span, 'transfer.request_id'), 'the-one')
        }
      }
      const queue = path[2]?.replace(/^api: add (.*)\.post$/, '$1')
      t.deepEqual(
        path.filter((step) => !step.includes('slonik')),
        [
          'api: POST /transfers',
          'api: submit',
          `api: add ${queue}.post`,
          `worker: process ${queue}`,
          'worker: post_transfers',
        ],
      )
      t.is(path.at(-1), 'worker: slonik.executeQuery')
      t.true(spans.every(({ service }) => service === 'bank'))
      // Waiting is polling for all who wait, and no part of anyone's trace.
      t.deepEqual(
        spans.filter(({ part, name }) => part === 'api' && name.includes('slonik')),
        [],
      )
      // Neither the worker's looking for jobs nor the API's own queries begin a trace.
      t.deepEqual([...new Set(spans.map(({ traceId }) => traceId))], [TRACE])
    },
  )
}

test.serial('a job that many requests share, and its call of the database, are linked to all of them', async (t) => {
  const REQUESTS = 60
  const { spans } = await traced(t, 'postgres', {}, async (http, [source, destination]) => {
    const submit = () => http.post('/transfers', { source, destination, amount: '1' }, { Prefer: 'wait=20' })
    const answers = await Promise.all(Array.from({ length: REQUESTS }, submit))
    t.true(answers.every(({ body }) => body.status === 'posted'))
  })
  const requests = spans.filter(({ kind }) => kind === 2)
  const submits = spans.filter(({ name }) => name === 'submit')
  t.is(requests.length, REQUESTS)
  t.true(submits.length < REQUESTS, `${submits.length} jobs`)
  const linked = submits.flatMap(({ links = [] }) => links.map(({ spanId }) => spanId))
  t.deepEqual(linked.sort(), requests.map(({ spanId }) => spanId).sort())
  const jobs = spans.filter(({ name }) => name.startsWith('process '))
  const calls = spans.filter(({ name }) => name === 'post_transfers')
  const called = new Set(calls.flatMap(({ links = [] }) => links.map(({ spanId }) => spanId)))
  t.is(jobs.length, submits.length)
  t.true(jobs.every(({ spanId }) => called.has(spanId)))
})

test.serial('nothing is sent when nothing is sampled, by setting or by the client', async (t) => {
  const post =
    (headers: Record<string, string>) =>
    async (http: Client, [source, destination]: string[]) => {
      const answer = await http.post(
        '/transfers',
        { source, destination, amount: '1' },
        { Prefer: 'wait=20', ...headers },
      )
      t.is(answer.body.status, 'posted')
    }
  for (const OTEL_TRACES_SAMPLER of ['always_off', 'parentbased_always_off', 'traceidratio']) {
    const off = await traced(t, 'postgres', { OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG: '0' }, post({}))
    t.is(off.calls(), 0, OTEL_TRACES_SAMPLER)
  }
  const declined = await traced(t, 'postgres', {}, post({ traceparent: `00-${TRACE}-${CLIENT}-00` }))
  t.is(declined.calls(), 0)
})

test.serial('a collector that is away or hangs keeps nobody from posting, or from stopping', async (t) => {
  const service = await startService({ backend: 'postgres', workers: 0 })
  t.teardown(service.stop)
  const { DATABASE_URL, QUEUE_NAME } = service.settings
  const hanging = createServer(() => {}).listen(0, '127.0.0.1')
  await once(hanging, 'listening')
  t.teardown(() => {
    hanging.closeAllConnections()
    hanging.close()
  })
  for (const port of [1, (hanging.address() as AddressInfo).port]) {
    const env = { DATABASE_URL, QUEUE_NAME, OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${port}` }
    const parts = [spawnPart('api', env), spawnPart('worker', env)]
    const [url] = await Promise.all(parts.map(({ ready }) => ready))
    const http = createClient(url ?? '')
    t.is((await http.transfer(await http.open('1'), await http.open(), '1')).status, 'posted')
    for (const part of parts) {
      part.process.kill('SIGTERM')
      t.is(await part.exited, 0, part.said())
    }
  }
})
