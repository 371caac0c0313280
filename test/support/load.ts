/*
 * Load and outage: clients that keep submitting, whatever happens, and what is to be expected of the service meanwhile
 * and afterwards.
 */
import type { ExecutionContext } from 'ava'
import { transferId } from '../../src/transfer.ts'
import { type Answer, type Client, createClient } from './client.ts'
import { type Service, until } from './harness.ts'

/** The promise, and what a machine that is busy with other tests may add to it. */
export const PROMISED_MS = 1000
export const MARGIN_MS = 500

type Timed = Answer & { took_ms: number }

export async function timed(request: Promise<Answer>): Promise<Timed> {
  const began_ms = performance.now()
  return { ...(await request), took_ms: performance.now() - began_ms }
}

/** All at once, as clients do. */
export async function expect503(t: ExecutionContext, requests: Record<string, Promise<Answer>>): Promise<void> {
  const answers = await Promise.all(
    Object.entries(requests).map(async ([name, made]) => [name, await timed(made)] as const),
  )
  for (const [name, { status, headers, body, took_ms }] of answers) {
    t.is(status, 503, name)
    t.is(body.type, '/problems/unavailable', name)
    t.regex(headers.get('Retry-After') ?? '', /^[1-9]\d*$/, name)
    t.true(took_ms < PROMISED_MS + MARGIN_MS, `${name} took ${took_ms} ms`)
  }
}

export async function expectStatus(t: ExecutionContext, status: number, requests: Record<string, Promise<Answer>>) {
  for (const [name, made] of Object.entries(requests)) t.is((await made).status, status, name)
}

export const isReady = (http: Client) => async () => (await http.get('/health/ready')).status === 200

/** The ids of all transfers in the ledger, each as often as it is there. */
export async function recorded(pool: Pick<Service['pool'], 'query'>): Promise<string[]> {
  const { rows } = await pool.query('SELECT id FROM ledger.transfer ORDER BY id')
  return rows.map((row) => row.id)
}

export async function untilDecided(t: ExecutionContext, service: Service, ids: readonly string[]): Promise<void> {
  await until(
    async () => {
      const { rows } = await service.pool.query('SELECT id FROM ledger.transfer WHERE id = ANY ($1)', [ids])
      return rows.length >= ids.length
    },
    { timeout_ms: 40_000 },
  )
  const all = await recorded(service.pool)
  t.is(all.length, new Set(all).size)
}

type Accounts = { source: string; destination: string }

export async function openTwo(http: Client): Promise<Accounts> {
  return { source: await http.open('1000'), destination: await http.open() }
}

export const keyed = (http: Client, accounts: Accounts, key: string, prefer: Record<string, string> = {}) =>
  http.post('/transfers', { ...accounts, amount: '1' }, { 'Idempotency-Key': key, ...prefer })

/**
 * Clients that each submit under a new key again and again, repeating what was not accepted, until told to stop.
 *
 * @returns the ids of all that was accepted, and how often each status was seen.
 */
export function load(t: ExecutionContext, http: Client, accounts: Accounts, clients: number) {
  const accepted: string[] = []
  const seen = new Map<number, number>()
  let going = true
  const running = Array.from({ length: clients }, async (_, client) => {
    for (let number = 0; going; number++) {
      const key = `${client}/${number}`
      for (;;) {
        const { status } = await keyed(http, accounts, key)
        seen.set(status, (seen.get(status) ?? 0) + 1)
        if (status === 200 || status === 202) break
      }
      accepted.push(transferId(accounts.source, key))
    }
  })
  const stop = async () => {
    going = false
    await Promise.all(running)
  }
  t.teardown(() => {
    going = false
  })
  return { accepted, seen, stop }
}

/** Everything accepted is decided once, and the money is where it should be. */
export async function expectBooks(t: ExecutionContext, service: Service, accounts: Accounts, accepted: string[]) {
  await untilDecided(t, service, accepted)
  const { rows } = await service.pool.query(
    `SELECT count(*) AS lines, count(DISTINCT id) AS ids, min(index) AS first, max(index) AS last,
       count(*) FILTER (WHERE reason IS NULL) AS posted
     FROM ledger.transfer WHERE source = $1`,
    [accounts.source],
  )
  const { lines, ids, first, last, posted } = rows[0]
  t.deepEqual({ lines, ids, first, last }, { lines: accepted.length, ids: accepted.length, first: 0, last: lines - 1 })
  const http = createClient(service.url)
  const { body } = await http.get(`/accounts/${accounts.destination}/balance`)
  t.is(body.balance, String(posted))
}
