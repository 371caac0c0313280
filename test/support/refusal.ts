/*
 * Refusals: a service without a worker, and what must be true of every request that it refuses: the answer is a problem
 * that says what was wrong, and nothing that a request could change has changed.
 */
import { randomUUID } from 'node:crypto'
import { isDeepStrictEqual } from 'node:util'
import type { ExecutionContext } from 'ava'
import { type Client, createClient, patiently } from './client.ts'
import { type Backend, openPatientQueue, type Service, startService } from './harness.ts'

/** `says` must be found in the problem's detail or among its errors. */
export type Case = {
  title: string
  method?: string
  path: string
  body?: string | Buffer
  headers?: Record<string, string>
  status: number
  type: string
  says?: RegExp
}

export const INVALID = { status: 400, type: 'invalid-request' }

// Both exist, so that each request would be taken if it were not for the one thing that is wrong with it.
export const SOURCE: string = randomUUID()
export const DESTINATION: string = randomUUID()

export const transfer = { source: SOURCE, destination: DESTINATION, amount: '1.00' }
export const valid = {
  '/accounts': JSON.stringify({ balance: '1.00' }),
  '/transfers': JSON.stringify(transfer),
  '/transfers/batch': JSON.stringify({ transfers: [transfer] }),
} as const

type Counts = { accounts: number; transfers: number; credits: number; jobs: number }

export type Gate = {
  service: Service
  http: Client
  /** All that a request could change. */
  count(): Promise<Counts>
  /** Tries all of them before it complains, so that one run names every hole. */
  refuse(t: ExecutionContext, cases: Case[]): Promise<void>
  /** After all that was refused it serves, and nothing was logged as an error. */
  expectUnharmed(t: ExecutionContext): Promise<void>
  stop(): Promise<void>
}

export async function startGate(backend: Backend): Promise<Gate> {
  const service = await startService({ backend, workers: 0 })
  const http = createClient(service.url)
  const queue = await openPatientQueue(service.settings)
  for (const id of [SOURCE, DESTINATION]) await http.post('/accounts', { id })

  async function count(): Promise<Counts> {
    const { rows } = await service.pool.query(`
      SELECT (SELECT count(*) FROM ledger.account) AS accounts, (SELECT count(*) FROM ledger.transfer) AS transfers,
        (SELECT count(*) FROM ledger.credit) AS credits`)
    const jobs = await queue.getJobs(['waiting', 'active', 'delayed', 'prioritized', 'completed', 'failed'])
    return { ...rows[0], jobs: jobs.filter((job) => job.name === 'post').length }
  }

  async function refuse(t: ExecutionContext, cases: Case[]): Promise<void> {
    const before = await count()
    const wrong: string[] = []
    for (const { title, method = 'GET', path, body, headers = {}, status, type, says = /./ } of cases) {
      const answer = await http.call(method, path, { body, headers })
      const after = await count()
      const said = `${answer.body.detail} ${JSON.stringify(answer.body.errors)}`
      const refused =
        answer.status === status &&
        answer.body.type === `/problems/${type}` &&
        answer.headers.get('Content-Type') === 'application/problem+json' &&
        answer.body.request_id === answer.headers.get('X-Request-ID') &&
        says.test(said)
      const moved = isDeepStrictEqual(after, before) ? '' : ` and changed ${JSON.stringify({ before, after })}`
      const sent = `${method} ${path} ${body ?? ''}`.slice(0, 200)
      if (!refused || moved) wrong.push(`${title}: ${sent} was answered ${answer.status} ${answer.text}${moved}`)
    }
    t.deepEqual(wrong, [])
  }

  async function expectUnharmed(t: ExecutionContext): Promise<void> {
    t.is((await http.get('/health/ready')).status, 200)
    const before = await count()
    t.is((await patiently(() => http.post('/transfers', transfer))).status, 202)
    t.true((await count()).jobs > before.jobs)
    const faults = service.log.filter(({ level }) => level >= 50)
    t.deepEqual(
      faults.map(({ msg, path, err }) => `${path} ${msg}: ${(err as Error | undefined)?.message}`),
      [],
    )
  }

  const stop = async () => {
    await queue.close()
    await service.stop()
  }
  return { service, http, count, refuse, expectUnharmed, stop }
}
