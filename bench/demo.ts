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
import { parseArgs } from 'node:util'
import { z } from 'zod'
import { audit, describeAudit } from '../src/db/audit.ts'
import { SERVICE_ACCOUNT } from '../src/transfer.ts'
import { type Answer, type Client, createClient, inParallel } from './client.ts'
import { drawOrders, type Order, seeded } from './order.ts'
import { startProgress } from './progress.ts'
import { type Accepted, type Decided, decided, describeVerdict, judge } from './verdict.ts'
import { startWholeService } from './whole.ts'

const ACCOUNTS = 1000
const TRANSFERS = 20_000
const OPENING = '100.00'
const CONNECTIONS = 64

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
  const client = createClient(service.url, CONNECTIONS)
  try {
    console.log(`on ${service.url}; SEED=${seed} repeats this demo`)
    const ok = await play(client, seed)
    console.log()
    const inside = service.databaseUrl ? await audit(service.databaseUrl) : undefined
    console.log(inside ? describeAudit(inside) : 'DATABASE_URL is not set: the books were not audited from inside')
    if (!ok || inside?.ok === false) process.exitCode = 1
  } finally {
    client.close()
    await service.stop()
  }
}

async function play(client: Client, seed: number): Promise<boolean> {
  const accounts = Array.from({ length: ACCOUNTS }, () => randomUUID() as string)
  const bankBefore = await readBalance(client, SERVICE_ACCOUNT)
  const fundings = await openAll(client, accounts)
  const orders = drawOrders(accounts, TRANSFERS, seeded(seed))
  const accepted = await submitAll(client, orders)
  await waitForAll(client, fundings, 'opening balances posted')
  const decisions = await waitForAll(client, [...new Set(accepted.map(({ id }) => id))], 'transfers decided')
  const balances = await readAll(client, accounts)
  const bank = { before: bankBefore, after: await readBalance(client, SERVICE_ACCOUNT) }
  const verdict = judge({ accounts, opening: OPENING, orders, accepted, decisions, balances, bank })
  console.log(`\n${describeVerdict(verdict)}`)
  return verdict.faults.length === 0
}

const opened = z.object({ id: z.string(), funding: z.object({ id: z.string() }) })

/** @returns the ids of the transfers that fund them. */
async function openAll(client: Client, accounts: readonly string[]): Promise<string[]> {
  const progress = startProgress('accounts opened', accounts.length)
  const ids = await inParallel(accounts, CONNECTIONS, async (id) => {
    const answer = await client.send('POST', '/accounts', { id, balance: OPENING })
    progress.step()
    return opened.parse(expect(answer, 201)).funding.id
  })
  progress.done()
  return ids
}

const submitted = z.object({ id: z.string() })

async function submitAll(client: Client, orders: readonly Order[]): Promise<Accepted[]> {
  const progress = startProgress('transfers accepted', orders.length)
  const accepted = await inParallel(orders, CONNECTIONS, async ({ source, destination, amount, key }) => {
    const headers = key === undefined ? undefined : { 'idempotency-key': key }
    const answer = await client.send('POST', '/transfers', { source, destination, amount }, headers)
    progress.step()
    return {
      id: submitted.parse(expect(answer, 200, 202)).id,
      replayed: answer.headers['idempotent-replayed'] === 'true',
      repeats: answer.repeats,
    }
  })
  progress.done()
  return accepted
}

/** Asks for each, waiting where it is not decided yet. */
async function waitForAll(client: Client, ids: readonly string[], what: string): Promise<Decided[]> {
  const progress = startProgress(what, ids.length)
  const decisions = await inParallel(ids, CONNECTIONS, async (id) => {
    const answer = await client.send('GET', `/transfers/${id}`, undefined, { prefer: 'wait=30' })
    progress.step()
    return decided.parse(expect(answer, 200))
  })
  progress.done()
  return decisions
}

const balance = z.object({ balance: z.string() })

async function readAll(client: Client, accounts: readonly string[]): Promise<string[]> {
  const progress = startProgress('balances read', accounts.length)
  const balances = await inParallel(accounts, CONNECTIONS, async (account) => {
    const found = await readBalance(client, account)
    progress.step()
    return found
  })
  progress.done()
  return balances
}

async function readBalance(client: Client, account: string): Promise<string> {
  const answer = await client.send('GET', `/accounts/${account}/balance`)
  return balance.parse(expect(answer, 200)).balance
}

/** @throws Error for any other status: the service promises not to. */
function expect(answer: Answer, ...statuses: number[]): unknown {
  if (statuses.includes(answer.status)) return answer.body
  throw new Error(`answered ${answer.status} instead of ${statuses.join(' or ')}: ${JSON.stringify(answer.body)}`)
}

await main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error)
  process.exitCode = 1
})
