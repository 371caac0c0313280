/*
 * The checker
 *
 * Holds what the clients were told against what the ledger holds, at the end, when everything runs and is drained. It
 * reads the rows and adds them up by itself; the project's own audit then has its say, too.
 *
 * Next: report.ts.
 */
import { readFile } from 'node:fs/promises'
import { audit } from '../../src/db/audit.ts'
import { fundingId, SERVICE_ACCOUNT } from '../../src/transfer.ts'
import { openAdmin } from '../support/harness.ts'
import { asText, type Sent } from './client.ts'

export type Verdict = {
  acknowledged: number
  decided: number
  rejected: number
  /** Keys that were sent more than once. */
  repeated: number
  /** Acknowledged, and not in the ledger. */
  lost: number
  /** Decisions beyond the first of a transfer, and decisions that nobody asked for. */
  doubled: number
  /** Keys of which two answers, or an answer and the ledger, say different things. */
  contradicted: number
  deadlocks: number
  /** Everything that is not as promised, in words. */
  faults: string[]
}

type Line = {
  id: string
  source: string
  index: number
  destination: string
  amount: string
  spent: string
  reason: string | null
  recorded_at: string
}

/**
 * @param options.postgresLog crash recovery forgets the statistics, the log does not.
 */
export async function check(options: {
  sent: ReadonlyMap<string, Sent>
  accounts: readonly string[]
  databaseUrl: string
  postgresLog: string
}): Promise<Verdict> {
  const { sent, accounts, databaseUrl, postgresLog } = options
  const pool = openAdmin(databaseUrl)
  try {
    const { rows } = await pool.query<Line>(`
      SELECT id, source, index, destination, amount, spent, reason,
        translate((recorded_at AT TIME ZONE 'UTC')::text, ' ', 'T') || 'Z' AS recorded_at
      FROM ledger.transfer ORDER BY source, index`)
    const faults: string[] = []
    const byId = Map.groupBy(rows, ({ id }) => id)
    const acknowledged = [...sent.values()].filter((transfer) => transfer.acknowledged)
    const lost = acknowledged.filter(({ id }) => !byId.has(id))
    const openings = new Set(accounts.map(fundingId))
    const strangers = rows.filter(({ id }) => !sent.has(id) && !openings.has(id))
    const doubled = [...byId.values()].reduce((sum, lines) => sum + lines.length - 1, 0) + strangers.length
    const contradicted = [...sent.values()].filter((transfer) => contradicts(transfer, byId.get(transfer.id) ?? []))

    faults.push(...some(lost, 'acknowledged and never decided', ({ id }) => id))
    if (doubled > 0)
      faults.push(`${doubled} decisions too many, such as ${strangers[0]?.id ?? 'a second one of an id'}`)
    faults.push(...some(contradicted, 'keys whose answers disagree', ({ id, answers }) => [id, ...answers].join(' ')))
    faults.push(...addUp(rows))

    const { rows: counted } = await pool.query<{ deadlocks: number }>(
      'SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()',
    )
    const logged = (await readFile(postgresLog, 'utf8')).split('deadlock detected').length - 1
    const deadlocks = Math.max(logged, counted[0]?.deadlocks ?? 0)
    if (deadlocks > 0) faults.push(`${deadlocks} deadlocks`)

    const books = await audit(databaseUrl)
    for (const { name, violations } of books.checks) {
      if (violations > 0) faults.push(`the audit: ${violations} violations of ${name}`)
    }
    return {
      acknowledged: acknowledged.length,
      decided: acknowledged.length - lost.length,
      rejected: rows.filter(({ reason }) => reason !== null).length,
      repeated: [...sent.values()].filter(({ attempts }) => attempts > 1).length,
      lost: lost.length,
      doubled,
      contradicted: contradicted.length,
      deadlocks,
      faults,
    }
  } finally {
    await pool.end()
  }
}

/** An answer that is not the row, or a row that is not what was asked. */
function contradicts({ source, destination, amount, answers }: Sent, [line]: readonly Line[]): boolean {
  if (!line) return answers.size > 0
  const status = line.reason === null ? 'posted' : 'rejected'
  const told = asText({ ...line, status })
  const asked = line.source === source && line.destination === destination && line.amount === amount
  return !asked || [...answers].some((answer) => answer !== told)
}

/** Chains, `spent`, balances and their sum, from the rows alone. @param rows by source and index. */
function addUp(rows: readonly Line[]): string[] {
  const faults: string[] = []
  const balances = new Map<string, bigint>()
  const add = (account: string, cents: bigint) => balances.set(account, (balances.get(account) ?? 0n) + cents)
  let before: Line | undefined
  for (const line of rows) {
    const first = before?.source !== line.source
    if (line.index !== (first ? 0 : (before?.index ?? 0) + 1)) faults.push(`a gap before ${line.source} ${line.index}`)
    const moved = line.reason === null ? cents(line.amount) : 0n
    const spent = (first ? 0n : cents(before?.spent ?? '0')) + moved
    if (cents(line.spent) !== spent)
      faults.push(`${line.source} ${line.index} has spent ${line.spent}, not ${spent} cents`)
    add(line.source, -moved)
    add(line.destination, moved)
    before = line
  }
  for (const [account, balance] of balances) {
    if (balance < 0n && account !== SERVICE_ACCOUNT) faults.push(`${account} is at ${balance} cents`)
  }
  const sum = [...balances.values()].reduce((total, balance) => total + balance, 0n)
  if (sum !== 0n) faults.push(`the balances sum to ${sum} cents`)
  return faults.length > 5 ? [...faults.slice(0, 5), `and ${faults.length - 5} more in the chains`] : faults
}

/** Exact: the clients send two digits after the point at most. */
function cents(amount: string): bigint {
  const [units = '0', fraction = ''] = amount.split('.')
  return BigInt(units) * 100n + BigInt(fraction.padEnd(2, '0'))
}

function some<T>(items: readonly T[], what: string, show: (item: T) => string): string[] {
  const [first] = items
  return first === undefined ? [] : [`${items.length} ${what}, such as ${show(first)}`]
}
