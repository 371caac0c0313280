/*
 * npm run demo
 *
 * The whole path, as a client sees it: 1,000 accounts are opened, 20,000 transfers are submitted, part of them more
 * than the account holds, to or from accounts that do not exist, or repeated under the same key. When all are decided,
 * the books are audited twice: from outside, by what the service answers over HTTP, and, where the database is at hand,
 * from inside. Without --url the service is one that the demo starts itself, with `npm start`'s own program, on data
 * that are deleted afterwards; with --url it is whatever runs there (DATABASE_URL then says where its books are).
 *
 * Next: order.ts, what is submitted; verdict.ts, the audit from outside.
 */
import { randomInt, randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { type Client, createClient } from '../src/client.ts'
import { audit, describeAudit } from '../src/db/audit.ts'
import { SERVICE_ACCOUNT } from '../src/transfer.ts'
import { drawOrders, type Order, seeded } from './order.ts'
import { startProgress } from './progress.ts'
import { type Accepted, type Decided, decided, describeVerdict, judge } from './verdict.ts'
import { startWholeService } from './whole.ts'

const ACCOUNTS = 1000
const TRANSFERS = 20_000
const OPENING = '100.00'
const LANES = 64
const REPEATS = 30

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { url: { type: 'string' } } })
  const seed = Number(process.env.SEED ?? randomInt(2 ** 31))
  const service = values.url
    ? { url: values.url.replace(/\/$/, ''), databaseUrl: process.env.DATABASE_URL, stop: async () => undefined }
    : await startWholeService()
  const stopOnSignal = () => {
    // Connections break while the service is being stopped: no news, and no reason to leave it behind.
    for (const event of ['uncaughtException', 'unhandledRejection']) process.on(event, () => undefined)
    void service.stop().finally(() => process.exit(1))
  }
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, stopOnSignal)
  try {
    console.log(`on ${service.url}; SEED=${seed} repeats this demo`)
    const ok = await play(service.url, seed)
    console.log()
    const inside = service.databaseUrl ? await audit(service.databaseUrl) : undefined
    console.log(inside ? describeAudit(inside) : 'DATABASE_URL is not set: the books were not audited from inside')
    if (!ok || inside?.ok === false) process.exitCode = 1
  } finally {
    await service.stop()
  }
}

async function play(url: string, seed: number): Promise<boolean> {
  const client = createClient(url, { fetch: patiently() })
  const accounts = Array.from({ length: ACCOUNTS }, () => randomUUID() as string)
  const bankBefore = await readBalance(client, SERVICE_ACCOUNT)
  const fundings = await openAll(client, accounts)
  const orders = drawOrders(accounts, TRANSFERS, seeded(seed))
  const accepted = await submitAll(url, orders)
  await waitForAll(client, fundings, 'opening balances posted')
  const decisions = await waitForAll(client, [...new Set(accepted.map(({ id }) => id))], 'transfers decided')
  const balances = await readAll(client, accounts)
  const bank = { before: bankBefore, after: await readBalance(client, SERVICE_ACCOUNT) }
  const verdict = judge({ accounts, opening: OPENING, orders, accepted, decisions, balances, bank })
  console.log(`\n${describeVerdict(verdict)}`)
  return verdict.faults.length === 0
}

/** @returns the ids of the transfers that fund them. */
async function openAll(client: Client, accounts: readonly string[]): Promise<string[]> {
  const progress = startProgress('accounts opened', accounts.length)
  const ids = await inParallel(accounts, async (id) => {
    const { funding } = taken(await client.call('POST /accounts', { body: { id, balance: OPENING } })).body
    if (!funding) throw new Error(`account ${id} was opened without its money`)
    progress.step()
    return funding.id
  })
  progress.done()
  return ids
}

async function submitAll(url: string, orders: readonly Order[]): Promise<Accepted[]> {
  const progress = startProgress('transfers accepted', orders.length)
  const accepted = await inParallel(orders, async ({ source, destination, amount, key }) => {
    let repeats = 0
    const client = createClient(url, { fetch: patiently(() => (repeats += 1)) })
    const sent = { body: { source, destination, amount }, headers: { 'Idempotency-Key': key } }
    const { body, headers } = taken(await client.call('POST /transfers', sent))
    progress.step()
    return { id: body.id, replayed: headers.get('Idempotent-Replayed') === 'true', repeats }
  })
  progress.done()
  return accepted
}

/** Asks for each, waiting where it is not decided yet. */
async function waitForAll(client: Client, ids: readonly string[], what: string): Promise<Decided[]> {
  const progress = startProgress(what, ids.length)
  const decisions = await inParallel(ids, async (id) => {
    const answer = await client.call('GET /transfers/{id}', { params: { id }, headers: { Prefer: 'wait=30' } })
    progress.step()
    return decided.parse(taken(answer).body)
  })
  progress.done()
  return decisions
}

async function readAll(client: Client, accounts: readonly string[]): Promise<string[]> {
  const progress = startProgress('balances read', accounts.length)
  const balances = await inParallel(accounts, async (account) => {
    const found = await readBalance(client, account)
    progress.step()
    return found
  })
  progress.done()
  return balances
}

async function readBalance(client: Client, account: string): Promise<string> {
  return taken(await client.call('GET /accounts/{id}/balance', { params: { id: account } })).body.balance
}

/** @throws Error for a problem: the service promises that there is none. */
function taken<Answer extends { ok: boolean; status: number; body: unknown }>(answer: Answer) {
  if (answer.ok) return answer as Extract<Answer, { ok: true }>
  throw new Error(`answered ${answer.status}: ${JSON.stringify(answer.body)}`)
}

/** Told 503, it waits as long as the answer says, and repeats the request; so, too, if the connection broke. */
function patiently(onRepeat: () => void = () => {}): typeof fetch {
  return async (...asked) => {
    for (let repeats = 0; ; repeats++) {
      const answer = await fetch(...asked).catch((error: unknown) => {
        if (repeats === REPEATS) throw error
        return undefined
      })
      if (answer && (answer.status !== 503 || repeats === REPEATS)) return answer
      await answer?.body?.cancel()
      onRepeat()
      await sleep(1000 * Number(answer?.headers.get('Retry-After') ?? 1))
    }
  }
}

/** Works through all items, as many at a time as there are lanes, in order of starting. */
async function inParallel<Item, Result>(
  items: readonly Item[],
  work: (item: Item) => Promise<Result>,
): Promise<Result[]> {
  const results: Result[] = []
  const entries = items.entries()
  await Promise.all(
    Array.from({ length: Math.min(LANES, items.length) }, async () => {
      for (const [position, item] of entries) results[position] = await work(item)
    }),
  )
  return results
}

await main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error)
  process.exitCode = 1
})
