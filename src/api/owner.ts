/*
 * Owners
 *
 * An account belongs to the caller who opened it, for ever: so the answer is remembered. Whoever has the scope operate,
 * as everyone has while access is open, is never asked about, and costs no query.
 */
import type { DatabasePool } from 'slonik'
import { createBatcher, READ_LIMIT } from '../batch.ts'
import { readAccounts } from '../db/account.ts'
import type { Caller } from './access.ts'
import { Problem, reach } from './problem.ts'

export type Owners = {
  /** Whether the caller may spend from the account and read it. @throws Problem unavailable. */
  allow(caller: Caller, account: string): Promise<boolean>
  /** @throws Problem forbidden, the same for another's account and for one that is not there; unavailable. */
  demand(caller: Caller, account: string): Promise<void>
}

/** Accounts remembered. */
const MEMORY_SIZE = 50_000

export function createOwners(pool: DatabasePool): Owners {
  const reads = createBatcher({
    run: (ids: string[]) => reach('database', readAccounts(pool, ids)),
    size: 1000,
    limit: READ_LIMIT,
  })
  const memory = new Map<string, string | null>()

  async function allow({ name, scopes }: Caller, account: string): Promise<boolean> {
    if (scopes.has('operate')) return true
    let owner = memory.get(account)
    if (owner === undefined) {
      const found = await reads.push(account)
      if (!found) return false // it may be opened any moment
      owner = found.owner
      const [oldest] = memory.keys()
      if (memory.size >= MEMORY_SIZE && oldest !== undefined) memory.delete(oldest)
      memory.set(account, owner)
    }
    return owner !== null && owner === name
  }

  async function demand(caller: Caller, account: string): Promise<void> {
    if (!(await allow(caller, account))) throw new Problem('forbidden', `account ${account} is not the caller's`)
  }

  return { allow, demand }
}
