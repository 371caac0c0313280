/*
 * The API and the worker as processes: told to stop, they finish what is in hand; killed, they are missed by nobody;
 * set up wrongly, they say so and leave.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { Agent, request } from 'node:http'
import { fileURLToPath } from 'node:url'
import test, { type ExecutionContext } from 'ava'
import pg from 'pg'
import { openQueue } from '../src/queue.ts'
import { transferId } from '../src/transfer.ts'
import { createClient } from './client.ts'
import { type Backend, backends, createDatabase, openAdmin, type Service, startService, until } from './harness.ts'

const TAKE_OVER_LIMIT_MS = 10_000

type Part = {
  /** Of an API. */
  url: string
  process: ChildProcess
  /** Everything it has said on stdout and stderr. */
  said(): string
  /** Its exit code, or the signal that ended it. */
  exited: Promise<number | NodeJS.Signals | null>
}

type Environment = Record<string, string | undefined>

/** Every process started here, so that none is left behind. */
const started = new Set<ChildProcess>()
process.once('exit', () => {
  for (const child of started) child.kill('SIGKILL')
})

function spawnPart(name: 'api' | 'worker', environment: Environment): Part & { ready: Promise<unknown> } {
  const file = fileURLToPath(new URL(`../src/${name}/main.ts`, import.meta.url))
  const child = spawn(process.execPath, [file], {
    env: { PATH: process.env.PATH, PORT: '0', LOG_LEVEL: 'warn', ...environment },
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  })
  started.add(child)
  let text = ''
  const streams = [child.stdout, child.stderr].filter((stream) => stream !== null)
  for (const stream of streams) stream.on('data', (bytes) => (text += bytes))
  // Not its `close`, which never comes after a disconnect from this side.
  const exited = Promise.all([once(child, 'exit'), ...streams.map((stream) => once(stream, 'close'))]).then(([how]) => {
    started.delete(child)
    const [code, signal] = how as [number | null, NodeJS.Signals | null]
    return signal ?? code
  })
  const part = { url: '', process: child, said: () => text, exited, ready: Promise.resolve() as Promise<unknown> }
  part.ready = new Promise<void>((done, failed) => {
    child.once('message', (message: { url?: string }) => {
      part.url = message.url ?? ''
      done()
    })
    void exited.then((how) => failed(new Error(`the ${name} ended (${how}): ${text}`)))
  })
  part.ready.catch(() => {})
  return part
}

async function startPart(name: 'api' | 'worker', service: Service): Promise<Part> {
  const { DATABASE_URL, REDIS_URL, QUEUE_NAME } = service.settings
  const part = spawnPart(name, { DATABASE_URL, REDIS_URL, QUEUE_NAME })
  await part.ready
  return part
}

/** A service without a worker, and everything stopped at the end, whatever happens. */
async function withService(backend: Backend, run: (service: Service) => Promise<void>): Promise<void> {
  const service = await startService({ backend, workers: 0 })
  const before = new Set(started)
  try {
    await run(service)
  } finally {
    for (const child of started) if (!before.has(child)) child.kill('SIGKILL')
    await service.stop()
  }
}

/** Accounts with money, without a worker: straight through the door. */
async function openFunded(service: Service, ...balances: string[]): Promise<string[]> {
  const accounts = balances.map(() => randomUUID())
  for (const [position, account] of accounts.entries()) {
    await service.pool.query('SELECT ledger.open_account($1)', [account])
    if (Number(balances[position]) === 0) continue
    await service.pool.query(
      `SELECT ledger.post_transfers(
         ARRAY[gen_random_uuid()], ARRAY['00000000-0000-0000-0000-000000000000'::uuid], ARRAY[$1::uuid], ARRAY[$2::numeric])`,
      [account, balances[position]],
    )
  }
  return accounts
}

async function countDecided(service: Service, ids: readonly string[]): Promise<number> {
  const { rows } = await service.pool.query('SELECT id FROM ledger.transfer WHERE id = ANY ($1)', [ids])
  return rows.length
}

/** Every one of them, once, in a chain without gaps. */
async function expectDecidedOnce(t: ExecutionContext, service: Service, source: string, ids: readonly string[]) {
  await until(async () => (await countDecided(service, ids)) >= ids.length, { timeout_ms: 40_000 })
  const { rows } = await service.pool.query('SELECT index, id FROM ledger.transfer WHERE source = $1 ORDER BY index', [
    source,
  ])
  t.deepEqual(
    rows.map((row) => row.index),
    Array.from(ids, (_, index) => index),
  )
  t.deepEqual(rows.map((row) => row.id).sort(), [...ids].sort())
}

/** Keeps a source from being decided, until released or until the database is dropped. */
async function holdClaim(service: Service, source: string): Promise<() => Promise<void>> {
  const session = new pg.Client({ connectionString: service.databaseUrl })
  session.on('error', () => {})
  await session.connect()
  await session.query('SELECT pg_advisory_lock(uuid_hash_extended($1, 0))', [source])
  return () => session.end()
}

for (const backend of backends) {
  test.serial(
    `${backend}: an API told to stop answers whom it has in hand, and everyone it has accepted is served`,
    (t) =>
      withService(backend, async (service) => {
        const [source = '', destination = ''] = await openFunded(service, '1000', '0')
        const api = await startPart('api', service)
        const client = createClient(api.url)
        const submit = (key: string, headers: Record<string, string> = {}) =>
          client.post('/transfers', { source, destination, amount: '1' }, { 'Idempotency-Key': key, ...headers })

        // There is no worker: these would wait for half a minute.
        const keys = Array.from({ length: 30 }, (_, number) => `key ${number}`)
        const held = keys.map((key) => submit(key, { Prefer: 'wait=30' }))
        const looking = keys.map((key) => client.get(`/transfers/${transferId(source, key)}`, { Prefer: 'wait=30' }))
        const looker = createClient(service.url)
        for (const key of keys) {
          await until(async () => (await looker.get(`/transfers/${transferId(source, key)}`)).status === 200)
        }

        api.process.kill('SIGTERM')
        const answers = await Promise.all(held)
        for (const [position, { status, body }] of answers.entries()) {
          t.is(status, 202)
          t.like(body, { id: transferId(source, String(keys[position])), status: 'queued' })
        }
        // Who asked before the transfer was queued was told so at once.
        for (const { status, body } of await Promise.all(looking)) t.true(status === 404 || body.status === 'queued')
        t.is(await api.exited, 0)
        await t.throwsAsync(submit('late'))

        const worker = await startPart('worker', service)
        await expectDecidedOnce(
          t,
          service,
          source,
          keys.map((key) => transferId(source, key)),
        )
        worker.process.kill('SIGTERM')
        t.is(await worker.exited, 0)
      }),
  )

  const underLoad = (t: ExecutionContext, signal: NodeJS.Signals) =>
    withService(backend, async (service) => {
      const [source = '', destination = ''] = await openFunded(service, '100000', '0')
      const api = await startPart('api', service)
      const agent = new Agent({ keepAlive: true, maxSockets: 16 })
      const accepted = new Set<string>()
      const unanswered = new Set<string>()
      const statuses = new Set<number>()
      let broken = 0
      let gone = false

      /** @returns false when nobody answers any more. */
      const submit = (key: string) =>
        new Promise<boolean>((done) => {
          const headers = { 'Content-Type': 'application/json', 'Idempotency-Key': key }
          const sent = request(`${api.url}/transfers`, { method: 'POST', agent, headers }, (answer) => {
            let text = ''
            answer.on('data', (bytes) => (text += bytes))
            answer.on('error', () => {})
            answer.on('close', () => {
              if (!answer.complete) broken += 1
              statuses.add(answer.statusCode ?? 0)
              if (answer.complete && JSON.parse(text).id) accepted.add(key)
              else unanswered.add(key)
              done(true)
            })
          })
          // A connection that was refused, or closed between two requests.
          sent.on('error', () => {
            if (accepted.has(key)) return
            unanswered.add(key)
            done(false)
          })
          sent.end(JSON.stringify({ source, destination, amount: '1' }))
        })

      const clients = Array.from({ length: 16 }, async (_, client) => {
        for (let number = 0; !gone; number++) await submit(`${client}/${number}`)
      })
      await until(() => accepted.size > 300)
      api.process.kill(signal)
      t.is(await api.exited, signal === 'SIGTERM' ? 0 : signal)
      gone = true
      await Promise.all(clients)
      agent.destroy()
      if (signal === 'SIGTERM') t.is(broken, 0)
      t.deepEqual([...statuses], [202])

      const other = createClient(service.url)
      for (const key of unanswered) {
        const { status } = await other.post(
          '/transfers',
          { source, destination, amount: '1' },
          { 'Idempotency-Key': key },
        )
        t.is(status, 202)
      }
      await service.startWorker()
      await expectDecidedOnce(
        t,
        service,
        source,
        [...accepted, ...unanswered].map((key) => transferId(source, key)),
      )
    })

  test.serial(
    `${backend}: an API stopped under load breaks off no answer, and what it did not answer can be repeated`,
    (t) => underLoad(t, 'SIGTERM'),
  )

  test.serial(`${backend}: an API killed under load has lost nothing of what it accepted`, (t) =>
    underLoad(t, 'SIGKILL'),
  )

  test.serial(`${backend}: a worker told to stop finishes the jobs it has in hand`, (t) =>
    withService(backend, async (service) => {
      const [held = '', source = '', destination = ''] = await openFunded(service, '1000', '100000', '0')
      const client = createClient(service.url)
      const release = await holdClaim(service, held)
      const { body } = await client.post('/transfers', { source: held, destination, amount: '1' })
      const worker = await startPart('worker', service)
      await until(async () => (await client.get(`/jobs/${body.job}`)).body.state === 'active')

      // And much more, that it cannot all have in hand.
      const jobs: string[] = []
      const ids: string[] = []
      for (let batch = 0; batch < 60; batch++) {
        const transfers = Array.from({ length: 100 }, () => ({ source, destination, amount: '1' }))
        const accepted = await client.post('/transfers/batch', { transfers })
        jobs.push(...(accepted.body.jobs ?? []))
        ids.push(...(accepted.body.ids ?? []))
      }
      await until(async () => (await countDecided(service, ids)) > 0)

      worker.process.kill('SIGTERM')
      let left = false
      void worker.exited.then(() => {
        left = true
      })
      // It stops taking jobs, and stays for the one it cannot finish yet.
      const queue = openQueue(service.settings)
      queue.on('error', () => {})
      const countActive = async () => (await queue.getJobCounts('active').catch(() => undefined))?.active
      await until(async () => (await countActive()) === 1)
      t.false(left)
      t.is((await client.get(`/jobs/${body.job}`)).body.state, 'active')
      t.is(await countDecided(service, [String(body.id)]), 0)
      await release()
      t.is(await worker.exited, 0)
      t.like((await client.get(`/jobs/${body.job}`)).body, { state: 'completed', attempts: 1, posted: 1 })
      t.is(await countActive(), 0)
      await queue.close()

      // What it did not take is there for the next one, each job begun once.
      const next = await startPart('worker', service)
      await expectDecidedOnce(t, service, source, ids)
      for (const job of jobs) {
        await until(async () => (await client.get(`/jobs/${job}`)).body.state === 'completed')
        t.is((await client.get(`/jobs/${job}`)).body.attempts, 1)
      }
      next.process.kill('SIGTERM')
      t.is(await next.exited, 0)
    }),
  )

  test.serial(`${backend}: the jobs of a worker that is killed are taken over within 10 s`, (t) =>
    withService(backend, async (service) => {
      const [held = '', source = '', destination = ''] = await openFunded(service, '1000', '1000', '0')
      const client = createClient(service.url)
      const release = await holdClaim(service, held)
      const transfers = [
        ...Array.from({ length: 20 }, () => ({ source: held, destination, amount: '1' })),
        ...Array.from({ length: 20 }, () => ({ source, destination, amount: '1' })),
      ]
      const batches = await Promise.all(Array.from({ length: 5 }, () => client.post('/transfers/batch', { transfers })))
      const ids = batches.flatMap(({ body }) => body.ids ?? [])
      const jobs = new Set(batches.flatMap(({ body }) => body.jobs ?? []))
      const worker = await startPart('worker', service)
      for (const job of jobs) await until(async () => (await client.get(`/jobs/${job}`)).body.state === 'active')
      // One half of every job is decided by then, the other cannot be.
      await until(async () => (await countDecided(service, ids)) === 100)
      const other = await startPart('worker', service)

      worker.process.kill('SIGKILL')
      const killed_ms = performance.now()
      t.is(await worker.exited, 'SIGKILL')
      await release()
      await until(async () => (await countDecided(service, ids)) === 200, { timeout_ms: 30_000 })
      const took_ms = performance.now() - killed_ms
      t.log(`taken over after ${Math.round(took_ms)} ms`)
      t.true(took_ms < TAKE_OVER_LIMIT_MS, `took ${took_ms} ms`)
      // What the killed one had decided stands, and is counted.
      let posted = 0
      for (const job of jobs) {
        const done = await until(async () => {
          const { body } = await client.get(`/jobs/${job}`)
          return body.state === 'completed' && body
        })
        posted += Number(done.posted)
      }
      t.is(posted, 200)
      t.is((await client.get(`/accounts/${destination}/balance`)).body.balance, '200')
      other.process.kill('SIGTERM')
      t.is(await other.exited, 0)
    }),
  )

  test.serial(`${backend}: API and worker stop when their launcher is gone`, (t) =>
    withService(backend, async (service) => {
      const parts = await Promise.all([startPart('api', service), startPart('worker', service)])
      for (const part of parts) part.process.disconnect()
      for (const part of parts) t.is(await part.exited, 0)
    }),
  )
}

/** Leaves with code 1, and with a sentence for the operator instead of a stack. */
async function expectRefusal(t: ExecutionContext, part: Part, says: RegExp): Promise<void> {
  t.is(await part.exited, 1, part.said())
  t.regex(part.said(), says)
  t.notRegex(part.said(), /\n\s+at .*\(?file:/)
}

test.serial('wrong settings end a process with a sentence that names them', async (t) => {
  const DATABASE_URL = 'postgres://127.0.0.1:1/none'
  for (const [name, environment, says] of [
    ['api', {}, /DATABASE_URL is not set/],
    ['worker', { DATABASE_URL: '' }, /DATABASE_URL is not set/],
    ['api', { DATABASE_URL: 'mysql://127.0.0.1/x' }, /DATABASE_URL="mysql:.*must be a URL starting with postgres:/],
    [
      'worker',
      { DATABASE_URL, REDIS_URL: '127.0.0.1:1' },
      /REDIS_URL="127.0.0.1:1": must be a URL starting with redis:/,
    ],
    ['api', { DATABASE_URL, PORT: '65536' }, /PORT="65536": must be at most 65535/],
    ['worker', { DATABASE_URL, WORKER_JOBS: 'all' }, /WORKER_JOBS="all": must be a whole number/],
    [
      'api',
      { DATABASE_URL, BATCH_SIZE: '0', LOG_LEVEL: 'loud' },
      /LOG_LEVEL="loud": must be one of[\s\S]*BATCH_SIZE="0"/,
    ],
  ] as const) {
    await expectRefusal(t, spawnPart(name, environment), says)
  }
})

test.serial('a port that is taken ends an API with a sentence', async (t) => {
  const service = await startService({ backend: 'postgres', workers: 0 })
  const { DATABASE_URL, QUEUE_NAME } = service.settings
  await expectRefusal(t, spawnPart('api', { DATABASE_URL, QUEUE_NAME, PORT: new URL(service.url).port }), /EADDRINUSE/)
  await service.stop()
})

test.serial('a database that is not migrated, or newer than the code, is refused by API and worker', async (t) => {
  const empty = await createDatabase({ empty: true })
  const newer = await createDatabase()
  const pool = openAdmin(newer.url)
  await pool.query("INSERT INTO ledger.migration (number, name) VALUES (9999, '9999_tomorrow.sql')")
  await pool.end()
  for (const [{ url }, says] of [
    [empty, /at version 0, this code needs \d+: npm run migrate/],
    [newer, /at version 9999, newer than this code/],
  ] as const) {
    for (const name of ['api', 'worker'] as const) {
      await expectRefusal(t, spawnPart(name, { DATABASE_URL: url }), says)
    }
  }
  await empty.drop()
  await newer.drop()
})

test.serial('a process that waits for its database stops when told to', async (t) => {
  for (const name of ['api', 'worker'] as const) {
    const part = spawnPart(name, { DATABASE_URL: 'postgres://127.0.0.1:1/none' })
    await until(() => part.said().includes('not reachable yet'))
    part.process.kill('SIGTERM')
    t.is(await part.exited, 0)
  }
})
