/*
 * The verdict of the demo
 *
 * An audit from outside: does what the service answered over HTTP add up? Nothing is taken from the database here.
 */
import { z } from 'zod'
import { fromCents, type Order, toCents } from './order.ts'

/** `repeats`: how often the service said 503 before. */
export type Accepted = { id: string; replayed: boolean; repeats: number }

export const decided = z.object({
  id: z.string(),
  source: z.string(),
  destination: z.string(),
  amount: z.string(),
  index: z.int().min(0),
  status: z.enum(['posted', 'rejected']),
  reason: z.string().optional(),
})

export type Decided = z.infer<typeof decided>

export type Verdict = {
  rows: [what: string, count: string][]
  promises: [promise: string, faults: string[]][]
  faults: string[]
}

export function judge(told: {
  accounts: readonly string[]
  opening: string
  orders: readonly Order[]
  accepted: readonly Accepted[]
  decisions: readonly Decided[]
  balances: readonly string[]
  /** The service account, from which all money enters, before the accounts were opened and now. */
  bank: { before: string; after: string }
}): Verdict {
  const { accounts, opening, orders, accepted, decisions, balances, bank } = told
  const paidIn = toCents(opening) * BigInt(accounts.length)
  const paidOut = toCents(bank.before) - toCents(bank.after)
  const promises: Verdict['promises'] = [
    ['every accepted transfer is decided exactly once, as it was sent', checkDecided(orders, accepted, decisions)],
    ['what cannot be posted is rejected, for the right reason', checkReasons(orders, accepted, decisions)],
    ['every chain counts 0, 1, 2 ... without a gap', checkChains(decisions)],
    ['every balance is what the decisions add up to, and none is negative', checkBalances(told)],
    [
      `all balances sum to 0: ${fromCents(paidIn)} in the accounts, ${fromCents(-paidOut)} in the service account`,
      checkSum(paidIn, paidOut, balances),
    ],
  ]
  const rejected = decisions.filter(({ status }) => status === 'rejected')
  const count = (items: readonly unknown[]) => items.length.toLocaleString('en')
  const rows: Verdict['rows'] = [
    ['transfers accepted', count(accepted)],
    ['of them repeats of another', count(orders.filter(({ repeats }) => repeats !== undefined))],
    ['answered with the decision at once', count(accepted.filter(({ replayed }) => replayed))],
    ['told to come back later first', count(accepted.filter(({ repeats }) => repeats > 0))],
    ['transfers decided', count(decisions)],
    ['posted', count(decisions.filter(({ status }) => status === 'posted'))],
    ...[...new Set(rejected.map(({ reason }) => reason))]
      .sort()
      .map((reason): [string, string] => [
        `rejected, ${reason}`,
        count(rejected.filter((decision) => decision.reason === reason)),
      ]),
  ]
  return { rows, promises, faults: promises.flatMap(([, faults]) => faults) }
}

/** Orders of one key must have got one id, all others one each; each id a decision that is what was sent. */
function checkDecided(
  orders: readonly Order[],
  accepted: readonly Accepted[],
  decisions: readonly Decided[],
): string[] {
  const byId = new Map(decisions.map((decision) => [decision.id, decision]))
  const faults = new Set<string>()
  const firstOf = new Map<string, number>()
  for (const [position, order] of orders.entries()) {
    const id = idOf(accepted, position)
    const original = order.repeats ?? position
    if (id !== idOf(accepted, original)) faults.add(`order ${position} repeats ${original} but got another id`)
    if ((firstOf.get(id) ?? original) !== original) faults.add(`two orders got the id ${id}`)
    firstOf.set(id, original)
    const decision = byId.get(id)
    if (!decision) faults.add(`${id} was accepted and is not decided`)
    else if (
      decision.source !== order.source ||
      decision.destination !== order.destination ||
      toCents(decision.amount) !== toCents(order.amount)
    ) {
      faults.add(`${id} was decided with other contents than it was sent with`)
    }
  }
  if (byId.size !== decisions.length) faults.add('an id was decided twice')
  return [...faults]
}

const EXPECTED = { too_much: 'insufficient_funds', to_nobody: 'unknown_destination', from_nobody: 'unknown_source' }

function checkReasons(
  orders: readonly Order[],
  accepted: readonly Accepted[],
  decisions: readonly Decided[],
): string[] {
  const byId = new Map(decisions.map((decision) => [decision.id, decision]))
  return orders.flatMap(({ kind }, position) => {
    const { id, reason } = byId.get(idOf(accepted, position)) ?? {}
    if (kind === 'repeated') return []
    if (kind === 'ordinary') {
      return reason === undefined || reason === 'insufficient_funds' ? [] : [`${id} was rejected as ${reason}`]
    }
    return reason === EXPECTED[kind] ? [] : [`${id} should be rejected as ${EXPECTED[kind]}, not ${reason}`]
  })
}

/** The accounts are new, so all that they ever sent is known here. */
function checkChains(decisions: readonly Decided[]): string[] {
  const chains = Map.groupBy(decisions, ({ source }) => source)
  return [...chains].flatMap(([source, chain]) => {
    const indexes = chain.map(({ index }) => index).sort((a, b) => a - b)
    return indexes.every((index, position) => index === position)
      ? []
      : [`the chain of ${source} has a gap or a repeat`]
  })
}

function checkBalances(told: Parameters<typeof judge>[0]): string[] {
  const { accounts, opening, decisions, balances } = told
  const expected = new Map(accounts.map((account) => [account, toCents(opening)]))
  for (const { status, source, destination, amount } of decisions) {
    if (status !== 'posted') continue
    expected.set(source, (expected.get(source) ?? 0n) - toCents(amount))
    expected.set(destination, (expected.get(destination) ?? 0n) + toCents(amount))
  }
  return accounts.flatMap((account, position) => {
    const answered = toCents(balances[position] ?? 'none')
    const derived = expected.get(account) ?? 0n
    return [
      ...(answered === derived ? [] : [`${account} has ${fromCents(answered)} instead of ${fromCents(derived)}`]),
      ...(answered < 0n ? [`${account} is below 0: ${fromCents(answered)}`] : []),
    ]
  })
}

/**
 * No order enters or leaves the circle of these accounts: together they hold what they began with, and the service
 * account lacks it. On a service that others use, it may meanwhile have paid for accounts of theirs, too.
 */
function checkSum(paidIn: bigint, paidOut: bigint, balances: readonly string[]): string[] {
  const sum = balances.reduce((total, balance) => total + toCents(balance), 0n)
  return [
    ...(sum === paidIn ? [] : [`the accounts hold ${fromCents(sum)}`]),
    ...(paidOut >= paidIn ? [] : [`the service account paid ${fromCents(paidOut)}`]),
  ]
}

function idOf(accepted: readonly Accepted[], position: number): string {
  const id = accepted[position]?.id
  if (id === undefined) throw new Error(`order ${position} was never answered`)
  return id
}

/** For people. */
export function describeVerdict({ rows, promises, faults }: Verdict): string {
  const lines = rows.map(([what, count]) => `  ${what.padEnd(36)}${count.padStart(8)}`)
  lines.push('\nseen from outside:')
  for (const [promise, found] of promises) {
    lines.push(`  ${(found.length === 0 ? 'ok' : 'WRONG').padEnd(6)}${promise}`)
    for (const fault of found.slice(0, 5)) lines.push(`        ${fault}`)
    if (found.length > 5) lines.push(`        and ${found.length - 5} more`)
  }
  if (faults.length > 0) lines.push(`${faults.length} FAULTS`)
  return lines.join('\n')
}
