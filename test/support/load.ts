/*
 * Load and outage: clients that keep submitting, whatever happens, and what is to be expected of the service meanwhile
 * and afterwards.
 */
import { isDeepStrictEqual } from 'node:util'
import type { ExecutionContext } from 'ava'
import { transferId } from '../../src/transfer.ts'
import { type Answer, type Client, createClient } from './client.ts'
import { type Service, until } from './harness.ts'

/** What a machine that is busy with other tests may add to a promised time: half as much again. */
export const MARGIN = 1.5

const PROMISED_MS = 1000
const ROUNDS = 2
/** A busy machine delays now the one, now the other; what the service itself is slow with, it is in every round. */
const MOST_ROUNDS = 8
const NEVER_MS = 10_000

/** @param ask makes requests, all at once, as clients do; with a client that is not patient. */
export async function expect503(
  t: ExecutionContext,
  ask: () => Record<string, Promise<Answer>>,
  type: 'unavailable' | 'overloaded' = 'unavailable',
): Promise<void> {
  const quickest_ms: Record<string, number> = {}
  const slow = () => Object.entries(quickest_ms).filter(([, took_ms]) => took_ms >= PROMISED_MS * MARGIN)
  for (let round = 1; round <= ROUNDS || (round <= MOST_ROUNDS && slow().length > 0); round++) {
    const began_ms = performance.now()
    const answered = Object.entries(ask()).map(async ([name, request]) => {
      const { status, headers, body } = await request
      const took_ms = performance.now() - began_ms
      t.is(status, 503, name)
      t.is(body.type, `/problems/${type}`, name)
      t.regex(headers.get('Retry-After') ?? '', /^[1-9]\d*$/, name)
      t.true(took_ms < NEVER_MS, `${name} took ${took_ms} ms`)
      quickest_ms[name] = Math.min(took_ms, quickest_ms[name] ?? took_ms)
    })
    await Promise.all(answered)
  }
  t.deepEqual(slow(), [], 'in every round')
}

export async function expectStatus(t: ExecutionContext, status: number, requests: Record<string, Promise<Answer>>) {
  for (const [name, made] of Object.entries(requests)) t.is((await made).status, status, name)
}

export function isReady(url: string): () => Promise<boolean> {
  const http = createClient(url, { patient: false })
  return async () => (await http.get('/health/ready')).status === 200
}

/** These stores are named as away, and no other: one that is late on a busy machine is, too, for a moment. */
export async function untilDown(url: string, stores: string[]): Promise<void> {
  const http = createClient(url, { patient: false })
  await until(async () => isDeepStrictEqual((await http.get('/health/ready')).body.down, stores))
}

/** The ids of all transfers in the ledger, each as often as it is there. */
export async function recorded(pool: Pick<Service['pool'], 'query'>): Promise<string[]> {
  const { rows } = await pool.query('SELECT id FROM ledger.transfer ORDER BY id')
  return rows.map((row) => row.id)
}

export async function untilDecided(t: ExecutionContext, service: Service, ids: readonly string[]): Promise<void> {
  await until(async () => {
    const { rows } = await service.pool.query('SELECT id FROM ledger.transfer WHERE id = ANY ($1)', [ids])
    return rows.length >= ids.length
  })
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
export function load(t: ExecutionContext, url: string, accounts: Accounts, clients: number) {
  const http = createClient(url, { patient: false })
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
