/*
 * One run of transfers over HTTP
 *
 * A load and a few waiting clients against one service, then the wait until the ledger has decided the last transfer.
 * Accepted and posted are measured apart: accepted are the answers 2xx per second of load; posted are the transfers
 * recorded per second from the first accept until the last one stands in the ledger, the drain after the load included.
 */
import type pg from 'pg'
import type { Load } from './load.ts'
import { onDatabase, type Service, until } from './stage.ts'
import { percentile, startWaiters, type Waits } from './waiter.ts'
import { processorTime, watchLocks } from './watch.ts'
import { batchRequests, openAccounts, SHAPES, type Shape, transferRequests } from './workload.ts'

export type TransferRun = {
  shape: Shape
  connections: number
  accepted_per_s: number
  posted_per_s: number
  accept_ms_p50: number
  accept_ms_p99: number
  /** From sending to knowing that it is posted, seen by waiting clients; null where nobody can wait. */
  posted_ms_p50: number | null
  posted_ms_p99: number | null
  drain_ms: number
  rejected: number
  non_2xx: number
  errors: number
  /** Accepted, but not in the ledger after a minute. */
  lost: number
  deadlocks: number
  /** Sessions seen waiting for a row or a transaction, at ten looks a second. */
  lock_waits: number
  /** Share of one processor that each part used. */
  cpu: Record<string, number>
  /** What must not be: the above, where they are not 0, in words. */
  faults: string[]
}

/** What a run needs to know of a service; a baseline is one, too. */
export type Target = Pick<Service, 'url' | 'databaseUrl' | 'pids'> & {
  open: (client: pg.Client, count: number) => Promise<string[]>
  /** How many transfers out of these accounts are decided. Cheap: asked again and again while the queue drains. */
  countDecided: (client: pg.Client, accounts: string[]) => Promise<number>
  /** How many of them were rejected. */
  countRejected: (client: pg.Client, accounts: string[]) => Promise<number>
  canWait: boolean
}

export const ACCOUNTS = 1000
/** More of them would be load themselves: four cost a twentieth of the throughput. */
const WAITERS = 2
/** Nothing more decided for that long, and all accepted are: it is over. */
const SETTLED_MS = 150
const DRAIN_LIMIT_MS = 60_000

export function serviceTarget({ url, databaseUrl, pids }: Service): Target {
  return { url, databaseUrl, pids, open: openAccounts, countDecided, countRejected, canWait: true }
}

/** `batch`: transfers per request. `amount`: requests to send in all, instead of for how long. */
export type RunPlan = { shape: Shape; connections: number; seconds: number; batch?: number; amount?: number }

/** @param accounts between which to transfer; new ones if none are given. */
export async function runTransfers(
  target: Target,
  load: Load,
  { shape, connections, seconds, batch = 1, amount }: RunPlan,
  given?: string[],
): Promise<TransferRun> {
  return await onDatabase(target.databaseUrl, async (client) => {
    const accounts = given ?? (await target.open(client, ACCOUNTS))
    const decidedBefore = await target.countDecided(client, accounts)
    const countDecided = async () => (await target.countDecided(client, accounts)) - decidedBefore
    const locks = await watchLocks(target.databaseUrl)
    const pids = { ...target.pids, load: load.pid }
    const used = await processorTime(pids)
    const began_ms = performance.now()
    const waiters = target.canWait
      ? startWaiters({ url: target.url, count: WAITERS, pair: () => SHAPES[shape](accounts) })
      : async (): Promise<Waits> => ({ durations_ms: [], undecided: 0 })

    const requests = batch === 1 ? transferRequests(shape, accounts) : batchRequests(shape, accounts, batch)
    const sent = await load.run({ url: target.url, connections, seconds, requests, ...(amount && { amount }) })
    const cpu = shares(used, await processorTime(pids), performance.now() - began_ms)
    const waits = await waiters()

    const accepted = batch * sent.ok + waits.durations_ms.length
    const drained_at = await drain(countDecided, accepted)
    const { deadlocks, lock_waits } = await locks.stop()
    const decided = await countDecided()
    const rejected = await target.countRejected(client, accounts)
    const non_2xx = sent.non_2xx
    const errors = sent.errors + waits.undecided
    const lost = Math.max(0, accepted - decided)
    return {
      shape,
      connections,
      accepted_per_s: perSecond(batch * sent.ok, sent.last_at - sent.first_at),
      posted_per_s: perSecond(decided - rejected, drained_at - sent.first_at),
      accept_ms_p50: sent.latency_p50_ms,
      accept_ms_p99: sent.latency_p99_ms,
      posted_ms_p50: target.canWait ? round(percentile(waits.durations_ms, 50)) : null,
      posted_ms_p99: target.canWait ? round(percentile(waits.durations_ms, 99)) : null,
      drain_ms: Math.max(0, drained_at - sent.last_at),
      rejected,
      non_2xx,
      errors,
      lost,
      deadlocks,
      lock_waits,
      cpu,
      faults: Object.entries({ non_2xx, errors, lost, deadlocks })
        .filter(([, count]) => count > 0)
        .map(([name, count]) => `${count.toLocaleString('en')} ${name}`),
    }
  })
}

/** @returns when the last transfer was seen to be decided, in ms since 1970. */
async function drain(decided: () => Promise<number>, accepted: number): Promise<number> {
  let seen = await decided()
  let seen_at = Date.now()
  await until('the last accepted transfer is decided', DRAIN_LIMIT_MS, async () => {
    const now = await decided()
    if (now > seen) seen_at = Date.now()
    seen = now
    return now >= accepted && Date.now() - seen_at > SETTLED_MS
  }).catch(() => undefined) // the caller counts what was lost
  return seen_at
}

/** By the ends of the chains: counting rows would take longer the more there are. */
async function countDecided(client: pg.Client, accounts: string[]): Promise<number> {
  const { rows } = await client.query<{ decided: string }>({
    name: 'count_decided',
    text: `
      SELECT coalesce(sum(last.index + 1), 0) AS decided
      FROM unnest($1::uuid[]) AS account
      CROSS JOIN LATERAL (
        SELECT index FROM ledger.transfer WHERE source = account ORDER BY index DESC LIMIT 1
      ) AS last`,
    values: [accounts],
  })
  return Number(rows[0]?.decided)
}

async function countRejected(client: pg.Client, accounts: string[]): Promise<number> {
  const { rows } = await client.query<{ rejected: string }>(
    'SELECT count(*) AS rejected FROM ledger.transfer WHERE source = ANY ($1::uuid[]) AND reason IS NOT NULL',
    [accounts],
  )
  return Number(rows[0]?.rejected)
}

function shares(before: Record<string, number>, after: Record<string, number>, duration_ms: number) {
  return Object.fromEntries(
    Object.entries(after).map(([name, used]) => [name, round((used - (before[name] ?? 0)) / (duration_ms / 1000), 2)]),
  )
}

export function perSecond(count: number, duration_ms: number): number {
  return Math.round(count / (duration_ms / 1000))
}

export function round(value: number, digits = 1): number {
  return Number(value.toFixed(digits))
}
