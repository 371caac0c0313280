/*
 * Closing of books, as ordered by the postings that find a long tail
 *
 * Done here and now rather than as a job: the order is the worker's own, comes with every thousand credits of a busy
 * account, and losing one costs nothing, since the next posting finds the same tail.
 */
import type { Logger } from 'pino'
import type { DatabasePool } from 'slonik'
import { closeBooks } from '../db/closing.ts'

/**
 * @returns orders the closing of some accounts' books. What is ordered while a closing is under way is closed with the
 *   next one, however often it was ordered.
 */
export function createCloser(pool: DatabasePool, log: Logger): (accounts: readonly string[]) => void {
  const ordered = new Set<string>()
  let busy = false

  async function close(): Promise<void> {
    busy = true
    while (ordered.size > 0) {
      const accounts = [...ordered]
      ordered.clear()
      await closeBooks(pool, accounts).catch((error: unknown) => log.debug({ error: String(error) }, 'closing failed'))
    }
    busy = false
  }

  return (accounts) => {
    for (const account of accounts) ordered.add(account)
    if (!busy && ordered.size > 0) void close()
  }
}
