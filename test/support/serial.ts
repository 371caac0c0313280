/*
 * One serial order
 *
 * A model of the service as its clients see it. Whatever was in flight at once, the decisions they are told must be those
 * of each source deciding its own requests one after the other, in the order of the indexes it gave them. Time passes in
 * rounds: what was decided in an earlier round is known to all; what else happened in the same round may be.
 */
import assert from 'node:assert/strict'
import { type Decision, SERVICE_ACCOUNT } from '../../src/transfer.ts'
import { units } from './books.ts'

type Account = {
  open: 'before' | 'now' | 'never'
  received: bigint
  spent: bigint
  chain: Decision[]
  credits: Decision[]
}

export type Serial = {
  /** An account that is opened in this round. */
  open(id: string): void
  /** Ends a round with all that was decided in it. @throws AssertionError where no serial order explains it. */
  settle(decided: readonly Decision[]): void
  isOpen(id: string): boolean
  /** In units of 0.00000001, as `spent` and `received`. */
  balance(id: string): bigint
  /** What it sent, by index. */
  chain(id: string): readonly Decision[]
  credits(id: string): readonly Decision[]
}

export function createSerial(): Serial {
  const accounts = new Map<string, Account>()

  function find(id: string): Account {
    const account = accounts.get(id) ?? { open: 'never', received: 0n, spent: 0n, chain: [], credits: [] }
    accounts.set(id, account)
    return account
  }

  function settle(decided: readonly Decision[]): void {
    const ordered = decided.toSorted((a, b) => a.index - b.index)
    const credits = ordered.filter(({ status }) => status === 'posted')
    for (const decision of ordered) {
      // The service account's chain is shared by all who are opened, in this test or another.
      if (decision.source === SERVICE_ACCOUNT) continue
      const source = find(decision.source)
      assert.equal(decision.index, source.chain.length, `the next index of ${decision.source}`)
      const outcome = decision.status === 'posted' ? 'posted' : decision.reason
      const allowed = explain(decision, source, credits)
      assert.ok(allowed.includes(outcome), `${JSON.stringify(decision)} should have been ${allowed.join(' or ')}`)
      const last = source.chain.at(-1)
      if (last) assert.ok(!isLater(last.recorded_at, decision.recorded_at), `${decision.id} is older than ${last.id}`)
      source.chain.push(decision)
      if (outcome === 'posted') source.spent += units(decision.amount)
    }
    for (const decision of credits) {
      const destination = find(decision.destination)
      destination.received += units(decision.amount)
      destination.credits.push(decision)
    }
    for (const account of accounts.values()) if (account.open === 'now') account.open = 'before'
  }

  /** The outcomes that a serial order could have, given what was there before this round and came in during it. */
  function explain(decision: Decision, source: Account, credits: readonly Decision[]): string[] {
    if (source.open === 'never') return ['unknown_source']
    const destination = find(decision.destination)
    const allowed: string[] = []
    if (source.open === 'now') allowed.push('unknown_source')
    if (destination.open !== 'before') allowed.push('unknown_destination')
    if (destination.open === 'never') return allowed
    const wanted = source.spent + units(decision.amount)
    const atMost = credits
      .filter(
        ({ destination, recorded_at }) =>
          destination === decision.source && !isLater(recorded_at, decision.recorded_at),
      )
      .reduce((sum, { amount }) => sum + units(amount), source.received)
    if (wanted <= atMost) allowed.push('posted')
    if (wanted > source.received) allowed.push('insufficient_funds')
    return allowed
  }

  return {
    open: (id) => {
      const account = find(id)
      if (account.open === 'never') account.open = 'now'
    },
    settle,
    isOpen: (id) => find(id).open !== 'never',
    balance: (id) => find(id).received - find(id).spent,
    chain: (id) => find(id).chain,
    credits: (id) => find(id).credits,
  }
}

/** Without the Z, since zeros at the end are dropped: "0.5Z" is before "0.51Z". */
function isLater(a: string, b: string): boolean {
  return a.slice(0, -1) > b.slice(0, -1)
}
