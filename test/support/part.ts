/*
 * API and worker as processes of their own, and what tests of their end have in common.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { Agent, request } from 'node:http'
import { fileURLToPath } from 'node:url'
import type { ExecutionContext } from 'ava'
import pg from 'pg'
import { isUnavailable } from './client.ts'
import { type Backend, type Service, startService, until } from './harness.ts'

export type Part = {
  /** An API's URL, as soon as it serves; a worker's is empty. */
  ready: Promise<string>
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

/** @param source another program in the part's place. */
export function spawnPart(
  name: 'api' | 'worker',
  environment: Environment,
  source = new URL(`../../src/${name}/main.ts`, import.meta.url),
): Part {
  const file = fileURLToPath(source)
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
  const ready = new Promise<string>((done, failed) => {
    child.once('message', (message: { url?: string }) => done(message.url ?? ''))
    void exited.then((how) => failed(new Error(`the ${name} ended (${how}): ${text}`)))
  })
  ready.catch(() => {}) // for those who expect it to end
  return { ready, process: child, said: () => text, exited }
}

export async function startPart(name: 'api' | 'worker', service: Service): Promise<Part & { url: string }> {
  const { DATABASE_URL, REDIS_URL, QUEUE_NAME } = service.settings
  const part = spawnPart(name, { DATABASE_URL, REDIS_URL, QUEUE_NAME })
  return { ...part, url: await part.ready }
}

/** A service without a worker, and everything stopped at the end, whatever happens. */
export async function withService(backend: Backend, run: (service: Service) => Promise<void>): Promise<void> {
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
export async function openFunded(service: Service, ...balances: string[]): Promise<string[]> {
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

export async function countDecided(service: Service, ids: readonly string[]): Promise<number> {
  const { rows } = await service.pool.query('SELECT id FROM ledger.transfer WHERE id = ANY ($1)', [ids])
  return rows.length
}

/** Every one of them, once, in a chain without gaps. */
export async function expectDecidedOnce(t: ExecutionContext, service: Service, source: string, ids: readonly string[]) {
  await until(async () => (await countDecided(service, ids)) >= ids.length)
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
export async function holdClaim(service: Service, source: string): Promise<() => Promise<void>> {
  const session = new pg.Client({ connectionString: service.databaseUrl })
  session.on('error', () => {})
  await session.connect()
  await session.query('SELECT pg_advisory_lock(uuid_hash_extended($1, 0))', [source])
  return () => session.end()
}

/**
 * Clients that submit on kept-alive connections, each until nobody answers any more, while the API is sent a signal.
 *
 * @returns the keys that were accepted, those that got no or no whole answer, how many answers broke off, and all
 *   statuses; without those 503s after which a key is repeated.
 */
export async function signalUnderLoad(api: Part & { url: string }, transfer: object, signal: NodeJS.Signals) {
  const agent = new Agent({ keepAlive: true, maxSockets: 16 })
  const accepted: string[] = []
  const unanswered: string[] = []
  const statuses = new Set<number>()
  let broken = 0

  const submit = (key: string) =>
    new Promise<'answered' | 'unavailable' | 'unanswered'>((done) => {
      const headers = { 'Content-Type': 'application/json', 'Idempotency-Key': key }
      const sent = request(`${api.url}/transfers`, { method: 'POST', agent, headers }, (answer) => {
        const { statusCode: status = 0 } = answer
        let text = ''
        answer.on('data', (bytes) => (text += bytes))
        answer.on('error', () => {})
        answer.once('close', () => {
          const late = answer.complete && isUnavailable({ status, text })
          if (!late) statuses.add(status)
          if (!answer.complete) broken += 1
          done(late ? 'unavailable' : answer.complete ? 'answered' : 'unanswered')
        })
      })
      // Refused, or closed between two requests.
      sent.on('error', () => done('unanswered'))
      sent.end(JSON.stringify(transfer))
    })

  const clients = Array.from({ length: 16 }, async (_, client) => {
    for (let number = 0; ; number++) {
      const key = `${client}/${number}`
      let outcome = await submit(key)
      while (outcome === 'unavailable') outcome = await submit(key)
      ;(outcome === 'answered' ? accepted : unanswered).push(key)
      if (outcome === 'unanswered') return
    }
  })
  await until(() => accepted.length > 300)
  api.process.kill(signal)
  await Promise.all(clients)
  agent.destroy()
  return { accepted, unanswered, broken, statuses: [...statuses] }
}
