/*
 * Faults of the database
 */
import { InvalidInputError } from 'slonik'

/** What is found at the start does not fit, and will not by waiting. */
export class Refusal extends Error {
  override name = 'Refusal'
}

/**
 * Whether the same call may succeed later, unchanged: the database is away, overloaded or being restarted, or another
 * writer took an index first, which is the one unique violation there can be. Not so if what was asked is at fault:
 * SQLSTATE class 22 (data), 23 (constraint), 42 and 54 (https://www.postgresql.org/docs/current/errcodes-appendix.html),
 * or a value that cannot even be sent.
 */
export function isPassing(error: unknown): boolean {
  if (error instanceof InvalidInputError || error instanceof TypeError || error instanceof Refusal) return false
  const state = sqlState(error)
  return state === undefined || state === '23505' || !['22', '23', '42', '54'].includes(state.slice(0, 2))
}

/** slonik wraps some errors of pg in its own, with the original as cause. */
function sqlState(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined
  if ('code' in error && typeof error.code === 'string' && /^[0-9A-Z]{5}$/.test(error.code)) return error.code
  return sqlState(error.cause)
}
