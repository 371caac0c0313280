/*
 * The workload
 *
 * 1,000 accounts, each with a million on it, and single transfers of 1.25 between them in five shapes. Uniform is what
 * most benchmarks show. In the other four, accounts are hot: there whoever locks rows forms a queue, and whoever locks
 * two in the wrong order deadlocks.
 */
import { randomUUID } from 'node:crypto'
import type pg from 'pg'
import { SERVICE_ACCOUNT } from '../src/transfer.ts'
import type { LoadRequest } from './load.ts'

export type Pair = { source: string; destination: string }

const any = (accounts: readonly string[], besides?: string): string => {
  for (;;) {
    const account = accounts[Math.floor(Math.random() * accounts.length)]
    if (account !== undefined && account !== besides) return account
  }
}

const at = (accounts: readonly string[], position: number): string => {
  const account = accounts[position]
  if (account === undefined) throw new Error(`there are only ${accounts.length} accounts`)
  return account
}

export const SHAPES = {
  /** Any account to any other. */
  uniform: (accounts: readonly string[]): Pair => {
    const source = any(accounts)
    return { source, destination: any(accounts, source) }
  },
  /** One account pays all others. */
  hot_source: (accounts: readonly string[]): Pair => ({
    source: at(accounts, 0),
    destination: any(accounts, at(accounts, 0)),
  }),
  /** All others pay one account. */
  hot_destination: (accounts: readonly string[]): Pair => ({
    source: any(accounts, at(accounts, 0)),
    destination: at(accounts, 0),
  }),
  /** One account pays one other. */
  hot_pair: (accounts: readonly string[]): Pair => ({ source: at(accounts, 0), destination: at(accounts, 1) }),
  /** Five pairs of accounts, each paying in both directions. */
  opposing_pairs: (accounts: readonly string[]): Pair => {
    const left = 2 * Math.floor(Math.random() * 5)
    const [one, other] = [at(accounts, left), at(accounts, left + 1)]
    return Math.random() < 0.5 ? { source: one, destination: other } : { source: other, destination: one }
  },
} satisfies Record<string, (accounts: readonly string[]) => Pair>

export type Shape = keyof typeof SHAPES
export const SHAPE_NAMES = Object.keys(SHAPES) as Shape[]

export const AMOUNT = '1.25'

/** Enough that no connection repeats itself soon, few enough to prepare in no time. */
export function transferRequests(shape: Shape, accounts: readonly string[], count = 8192): LoadRequest[] {
  return Array.from({ length: count }, () => ({
    method: 'POST',
    path: '/transfers',
    body: JSON.stringify({ ...SHAPES[shape](accounts), amount: AMOUNT }),
  }))
}

/** Few, because they are large; all connections send the same. */
export function batchRequests(shape: Shape, accounts: readonly string[], size: number): LoadRequest[] {
  return Array.from({ length: 32 }, () => ({
    method: 'POST',
    path: '/transfers/batch',
    body: JSON.stringify({
      transfers: Array.from({ length: size }, () => ({ ...SHAPES[shape](accounts), amount: AMOUNT })),
    }),
  }))
}

/** Opens accounts with a million each, through the ledger's functions: what is measured comes after. */
export async function openAccounts(client: pg.Client | pg.PoolClient, count: number): Promise<string[]> {
  const accounts = Array.from({ length: count }, () => randomUUID() as string)
  await client.query('SELECT ledger.open_account(account) FROM unnest($1::uuid[]) AS account', [accounts])
  for (let from = 0; from < count; from += 500) {
    const some = accounts.slice(from, from + 500)
    const outcomes = await post(
      client,
      some.map((account) => ({ source: SERVICE_ACCOUNT, destination: account })),
      '1000000',
    )
    if (outcomes.some((outcome) => outcome !== 'posted')) throw new Error(`funding: ${outcomes}`)
  }
  return accounts
}

/** One call of the door, as a worker makes it. @returns the outcomes; null where the source was busy. */
export async function post(
  client: pg.Client | pg.PoolClient,
  pairs: readonly Pair[],
  amount: string = AMOUNT,
): Promise<(string | null)[]> {
  const { rows } = await client.query<{ outcomes: (string | null)[] }>({
    name: 'post_transfers',
    text: 'SELECT outcomes FROM ledger.post_transfers($1::uuid[], $2::uuid[], $3::uuid[], $4::numeric[])',
    values: [
      pairs.map(() => randomUUID()),
      pairs.map(({ source }) => source),
      pairs.map(({ destination }) => destination),
      pairs.map(() => amount),
    ],
  })
  return rows[0]?.outcomes ?? []
}
