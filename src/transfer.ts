/*
 * The vocabulary
 *
 * What a transfer is, what may be asked and what can come of it. Every word here is spelled the same in HTTP, in the
 * queue and in SQL. Requests are parsed once, by these schemas; behind them the code works with plain values.
 *
 * Next: queue.ts, what the API and the workers agree on.
 */
import { randomUUIDv7 } from 'node:crypto'
import { v5 as uuidv5 } from 'uuid'
import { z } from 'zod'

/** All money enters from here, so all balances sum to zero. */
export const SERVICE_ACCOUNT = '00000000-0000-0000-0000-000000000000'

/** The most transfers one request, and so one job, may hold. */
const BATCH_LIMIT = 1000

export type Transfer = { id: string; source: string; destination: string; amount: string }

/** Why the bank said no, in order of precedence. As final as a posting: to try again, use a new key. */
export const REASONS = ['unknown_source', 'unknown_destination', 'insufficient_funds'] as const

export type Outcome = 'posted' | (typeof REASONS)[number]

/** A transfer decided: at `index` of its source's chain, at `recorded_at` (RFC 3339, microseconds). */
export type Decision = Transfer & { index: number; recorded_at: string } & (
    | { status: 'posted' }
    | { status: 'rejected'; reason: (typeof REASONS)[number] }
  )

/** Any UUID, of whatever version; in lower case from here on, so that one account has one spelling. */
export const uuid = z
  .guid({ error: 'a UUID such as 7f5ac0a6-2b57-4c1f-8f0a-3d3f8a0d1f11' })
  .meta({ examples: ['7f5ac0a6-2b57-4c1f-8f0a-3d3f8a0d1f11'] })
  .toLowerCase()

const AMOUNT = /^(?:0|[1-9]\d{0,19})(?:\.\d{1,8})?$/
const AMOUNT_ERROR = 'an amount above 0 as a string such as "12.50": at most 20 digits, and 8 after the point'

/**
 * Exact decimals, kept as the string that was sent. A JSON integer is taken too, while it is safe; a JSON fraction or
 * a number in exponent form is not, because it may already have been rounded (api/body.ts keeps such numbers from
 * passing as integers).
 */
const amount = z
  .union(
    [
      z.string().meta({ pattern: `^(?=.*[1-9])${AMOUNT.source.slice(1)}` }),
      z
        .int()
        .meta({ override: { minimum: 1 } })
        .transform(String),
    ],
    { error: AMOUNT_ERROR },
  )
  .refine((text) => AMOUNT.test(text) && /[1-9]/.test(text), { error: AMOUNT_ERROR })
  .meta({ description: `${AMOUNT_ERROR}. An integer may be a JSON number` })

export const idempotencyKey = z
  .string()
  .min(1, 'a key of 1 to 255 characters')
  // Characters as Unicode counts them: an emoji is one, though JavaScript says two.
  .refine((key) => key.length <= 255 || (key.length <= 510 && [...key].length <= 255), {
    error: 'a key of 1 to 255 characters',
  })
  .meta({ maxLength: 255 })
  // Half of a surrogate pair is no character, and has no bytes to make an id of.
  .refine((key) => key.isWellFormed(), { error: 'a key of whole characters' })

const between = {
  source: uuid.refine((id) => id !== SERVICE_ACCOUNT, {
    error: 'an account other than the service account, which only funds new accounts',
  }),
  destination: uuid,
  amount,
}

const apart = (transfer: { source: string; destination: string }) => transfer.source !== transfer.destination
const APART = { path: ['destination'], error: 'an account other than the source' }

export const transferRequest = z.strictObject(between).refine(apart, APART)

export const batchRequest = z.strictObject({
  transfers: z
    .array(z.strictObject({ key: idempotencyKey.optional(), ...between }).refine(apart, APART))
    .min(1, `1 to ${BATCH_LIMIT} transfers`)
    .max(BATCH_LIMIT, `1 to ${BATCH_LIMIT} transfers`),
})

export const accountRequest = z.strictObject({ id: uuid.optional(), balance: amount.optional() })

/** In UTC from here on, because Postgres knows fewer offsets than RFC 3339, and no year 0. Fractions are kept. */
export const pastMoment = z.iso
  .datetime({ offset: true, error: 'an RFC 3339 moment such as 2026-01-31T12:00:00Z' })
  .refine((at) => Date.parse(at) <= Date.now(), { error: 'a moment in the past' })
  .refine((at) => Date.parse(at) >= Date.parse('0001-01-01T00:00:00Z'), { error: 'a moment after the year 0' })
  .transform((at) => `${new Date(Date.parse(at)).toISOString().slice(0, 19)}${/\.\d+/.exec(at)?.[0] ?? ''}Z`)

/**
 * The id of a request with an idempotency key: UUIDv5 (RFC 9562) of the key in the namespace of its source account. So
 * one key means one transfer for ever, and nobody can make two sources share an id.
 */
export function transferId(source: string, key: string): string {
  // As bytes, because the library takes only UUIDs of the versions in RFC 9562 as text, and an account's may be any.
  return uuidv5(key, Buffer.from(source.replaceAll('-', ''), 'hex'))
}

/** A new UUIDv7: ids drawn one after the other lie side by side in the index. */
export const drawId = (): string => randomUUIDv7()

/** The id of the transfer that funds a new account. */
export function fundingId(account: string): string {
  return transferId(SERVICE_ACCOUNT, `opening ${account}`)
}

/** The fields in which a request differs from the transfer first sent under its key. Amounts compare as decimals. */
export function differences(asked: Transfer, first: Transfer): string[] {
  const fields: string[] = []
  if (asked.destination !== first.destination) fields.push('destination')
  if (!sameAmount(asked.amount, first.amount)) fields.push('amount')
  return fields
}

/** As decimals: 12.5 is 12.50. */
export function sameAmount(a: string, b: string): boolean {
  return canonical(a) === canonical(b)
}

function canonical(amount: string): string {
  return amount.includes('.') ? amount.replace(/\.?0+$/, '') : amount
}
