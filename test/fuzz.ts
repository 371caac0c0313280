/*
 * Bad input at scale: thousands of requests of every kind of nonsense, over real sockets. Each gets an answer or the end
 * of its connection; no answer is a 5xx, none is without words; nothing is logged as an error; nothing is in the ledger
 * or the queue but what was accepted; and the process holds no more memory afterwards than before.
 *
 * 10,000 in all, half on each backend; `npm run fuzz` sends 100,000 to each, FUZZ_REQUESTS=… as many; SEED=… repeats a run.
 */
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { connect } from 'node:net'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import Koa from 'koa'
import { problems } from '../src/api/problem.ts'
import { createHttpServer } from '../src/api/server.ts'
import { unpackTransfers } from '../src/queue.ts'
import { createClient, isUnavailable, patiently, throwIfUnavailable } from './support/client.ts'
import { backends, captureLog, type LogLine, openPatientQueue, seed, startService, until } from './support/harness.ts'
import { exchange, nonsense, type Received, type Sent } from './support/nonsense.ts'

const REQUESTS = Number(process.env.FUZZ_REQUESTS ?? 5_000)
/** Sent at a time, each on a connection of its own. */
const TOGETHER = 50
/** The machine is busy with other tests. Later than this, the service would turn out whom it makes wait for its header. */
const ANSWER_LIMIT_MS = 9000
/** What rubbish of an engine, pools and compiled code may differ by. */
const GROWTH_LIMIT_BYTES = 40e6

/** What an answer must be, whatever was asked. @throws Error that says what is wrong with it. */
function judge({ whole }: Sent, received: Received | undefined): void {
  if (!received) {
    if (whole) throw new Error('the connection was closed without an answer')
    return
  }
  const { status, headers, body } = received
  const said = `answered ${status} ${body.slice(0, 300)}`
  if (!(status >= 200 && status < 500)) throw new Error(said)
  if (!headers.has('x-request-id')) throw new Error(`${said}, without a request id`)
  if (status < 400) return
  if (headers.get('content-type') !== 'application/problem+json')
    throw new Error(`${said}, which is no problem document`)
  // The answer to HEAD has none.
  if (body === '' && headers.get('content-length') !== '0') return
  const problem = JSON.parse(body)
  const complete =
    problem.status === status &&
    /^\/problems\/[a-z-]+$/.test(problem.type) &&
    problem.title &&
    problem.detail &&
    problem.request_id === headers.get('x-request-id')
  if (!complete) throw new Error(`${said}, whose document is not complete`)
}

/**
 * Sends a few at a time; each must stand before the judge.
 *
 * @param accept is shown every answer; where a store was late, that nobody knows whether it got through, and the next.
 */
function holds(
  url: string,
  known: { source: string; destination: string },
  together: number,
  log: LogLine[],
  accept: (received: Received | undefined) => void = () => {},
) {
  const few = fc.array(nonsense(known), { minLength: 1, maxLength: together, size: 'max' })
  return fc.asyncProperty(few, async (requests) => {
    log.length = 0
    const all = await Promise.allSettled(
      requests.map(async (sent) => {
        const received = await patiently(async () => {
          const received = await exchange(url, sent, ANSWER_LIMIT_MS)
          const late = received && { status: received.status, text: received.body }
          if (late && isUnavailable(late)) accept(undefined)
          if (late) throwIfUnavailable(late)
          return received
        })
        judge(sent, received)
        accept(received)
      }),
    )
    for (const one of all) if (one.status === 'rejected') throw one.reason
    const errors = log.filter(({ level, err }) => level >= 50 || err !== undefined)
    if (errors.length > 0) throw new Error(`logged ${JSON.stringify(errors[0])}`)
  })
}

/** @throws Error with the smallest case found, its bytes as text. */
function report(t: ExecutionContext, details: fc.RunDetails<[Sent[]]>): void {
  const [few] = details.counterexample ?? []
  const smallest = few?.map(({ bytes }) => JSON.stringify(bytes.toString('latin1').slice(0, 1000))).join('\n')
  t.false(details.failed, `SEED=${seed}: ${details.errorInstance}\n${smallest}`)
}

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

function heapBytes(): number {
  collect()
  return process.memoryUsage().heapUsed
}

for (const backend of backends) {
  test.serial(
    `${backend}: whatever is sent, the answer is clear, and nothing changes but by what was accepted`,
    async (t) => {
      t.timeout(300_000)
      t.log(`SEED=${seed}`)
      const service = await startService({ backend, workers: 0, settings: { QUEUE_LIMIT: 100_000_000 } })
      t.teardown(service.stop)
      const queue = await openPatientQueue(service.settings)
      t.teardown(() => queue.close())
      const http = createClient(service.url)
      const known = { source: await http.open(), destination: await http.open() }

      const statuses: Record<number, number> = {}
      const accepted = { accounts: 0, transfers: 0 }
      let unanswered = 0
      const accept = (received: Received | undefined) => {
        if (!received) unanswered += 1
        if (!received) return
        const { status, body } = received
        statuses[status] = (statuses[status] ?? 0) + 1
        if (status !== 201 && status !== 202) return
        const { ids, funding, ...rest } = JSON.parse(body)
        if (status === 201) accepted.accounts += 1
        if (ids) accepted.transfers += new Set(ids).size
        else if (funding || rest.source) accepted.transfers += 1
      }
      const count = async () => {
        const { rows } = await service.pool.query(`
        SELECT (SELECT count(*) FROM ledger.account) AS accounts, (SELECT count(*) FROM ledger.transfer) AS decided,
          (SELECT count(*) FROM ledger.credit) AS credits`)
        const jobs = (await queue.getJobs(['waiting', 'delayed', 'active'])).filter((job) => job.name === 'post')
        const ids = jobs.flatMap((job) => new Set(unpackTransfers(job.data).map(({ id }) => id)).size)
        return { ...rows[0], queued: ids.reduce((sum, size) => sum + size, 0) }
      }
      const before = await count()
      const property = holds(service.url, known, TOGETHER, service.log, accept)
      const run = async (requests: number, path: number) => {
        // An array has half as many members on average as it may have.
        const numRuns = Math.ceil(requests / (TOGETHER / 2))
        report(
          t,
          await fc.check(property, {
            seed: seed + path,
            numRuns,
            interruptAfterTimeLimit: 90_000,
            endOnFailure: false,
          }),
        )
      }
      await run(REQUESTS / 3, 0)
      const settled = heapBytes()
      await run((REQUESTS * 2) / 3, 1)
      const grown = heapBytes() - settled
      t.log(JSON.stringify(statuses), `heap ${(grown / 1e6).toFixed(1)} MB`)
      t.true(grown < GROWTH_LIMIT_BYTES, `the heap has grown by ${grown} bytes`)
      // Who broke off in the middle of it cannot know: the request may have been whole enough.
      const now = await count()
      t.deepEqual({ decided: now.decided, credits: now.credits }, { decided: before.decided, credits: before.credits })
      for (const [changed, told, most] of [
        [now.accounts - before.accounts, accepted.accounts, 1],
        [now.queued - before.queued, accepted.transfers, 1000],
      ] as const) {
        t.true(
          changed >= told && changed <= told + most * unanswered,
          `${changed} changed, ${told} told, ${unanswered} not`,
        )
      }
      for (const status of [200, 201, 202, 400, 404, 405, 415, 431]) t.true((statuses[status] ?? 0) > 0, `${status}`)
      t.is(({} as { amount?: string }).amount, undefined)
      t.is((await http.get('/health/ready')).status, 200)
      t.is((await http.post('/transfers', { ...known, amount: '1' }, { 'Idempotency-Key': randomUUID() })).status, 202)
    },
  )
}

test('control: a server with one hole in it does not pass, and the smallest request through it is found', async (t) => {
  const log: LogLine[] = []
  const logger = captureLog(log)
  for (const [hole, app] of [
    [
      'throws',
      () => {
        throw new TypeError('not foreseen')
      },
    ],
    ['says nothing', (ctx: Koa.Context) => void Object.assign(ctx, { status: 400, body: 'no' })],
    ['hangs up', (ctx: Koa.Context) => void ctx.req.socket.destroy()],
  ] as const) {
    const koa = new Koa()
      .on('error', () => {})
      .use(problems(logger))
      .use(async (ctx) => {
        if (ctx.method === 'PUT') app(ctx)
        else ctx.throw(400)
      })
    const server = createHttpServer(koa.callback(), 1000, logger).listen(0, '127.0.0.1')
    t.teardown(() => {
      server.close()
      server.closeAllConnections()
    })
    await once(server, 'listening')
    const { port } = server.address() as { port: number }
    const known = { source: randomUUID(), destination: randomUUID() }
    const details = await fc.check(holds(`http://127.0.0.1:${port}`, known, 20, log), { seed, numRuns: 200 })
    t.true(details.failed, hole)
    const [few = []] = details.counterexample ?? []
    t.true(few.length <= 3, hole)
    t.true(
      few.some(({ bytes }) => bytes.toString('latin1').startsWith('PUT ')),
      hole,
    )
  }
})

test('who sends slowly, or nothing, is turned out, and keeps nobody else from being served', async (t) => {
  const service = await startService({ backend: 'postgres', workers: 0 })
  t.teardown(service.stop)
  const http = createClient(service.url)
  const { hostname, port } = new URL(service.url)
  const began_ms = performance.now()

  /** Sends a beginning, then a byte every now and then. @returns what came before the end. */
  const trickle = (beginning: string, byte: string) =>
    new Promise<{ text: string; lasted_ms: number }>((resolve) => {
      const socket = connect(Number(port), hostname)
      const timer = byte === '' ? undefined : setInterval(() => socket.write(byte), 250)
      let text = ''
      socket.on('data', (bytes) => (text += bytes))
      socket.on('error', () => {})
      socket.on('close', () => {
        clearInterval(timer)
        resolve({ text, lasted_ms: performance.now() - began_ms })
      })
      socket.write(beginning)
    })
  const header = 'POST /transfers HTTP/1.1\r\nHost: localhost\r\n'
  const body = `${header}Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n`
  const slow = [
    ...Array.from({ length: 200 }, () => trickle(`${header}A: `, 'x')),
    ...Array.from({ length: 200 }, () => trickle(header, '')),
    ...Array.from({ length: 50 }, () => trickle(body, ' ')),
    ...Array.from({ length: 50 }, () => trickle(body, '')),
  ]
  let over = false
  const all = Promise.all(slow).finally(() => {
    over = true
  })
  while (!over) {
    t.is((await http.get('/health/ready')).status, 200)
    await Promise.race([all, new Promise((done) => setTimeout(done, 200))])
  }
  for (const { text, lasted_ms } of await all) {
    t.regex(text, /^HTTP\/1\.1 408 .*\r\n/)
    t.regex(text, /"type":"\/problems\/request-timeout"/)
    t.true(lasted_ms < 60_000, `${lasted_ms} ms`)
  }
  t.deepEqual(
    service.log.filter(({ level }) => level >= 40),
    [],
  )
})

test('more connections than there may be are closed, and the others are served', async (t) => {
  const service = await startService({ backend: 'postgres', workers: 0, settings: { CONNECTION_LIMIT: 20 } })
  t.teardown(service.stop)
  const { hostname, port } = new URL(service.url)
  const sockets = Array.from({ length: 40 }, () => connect(Number(port), hostname).on('error', () => {}))
  await until(() => sockets.filter((socket) => socket.closed).length === 20)
  const first = sockets.find((socket) => !socket.closed)
  const [answer] = await Promise.all([
    first && once(first, 'data'),
    first?.write('GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n'),
  ])
  t.regex(String(answer?.[0]), /^HTTP\/1\.1 204 /)
  for (const socket of sockets) socket.destroy()
  await until(
    async () =>
      (
        await createClient(service.url)
          .get('/health')
          .catch(() => undefined)
      )?.status === 204,
  )
})
