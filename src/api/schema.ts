/*
 * What the API answers, as schemas
 *
 * They describe: the document and the typed client are made of them, and the tests hold every answer against them. No
 * answer passes through them on its way out.
 *
 * Next: route.ts, which answer belongs to which route.
 */
import { z } from 'zod'
import 'zod-openapi'
import { REASONS } from '../transfer.ts'
import { PROBLEMS, type ProblemType } from './problem.ts'

const ID = '7f5ac0a6-2b57-4c1f-8f0a-3d3f8a0d1f11'
const SOURCE = '9c5b0c2e-1b0f-4f0e-9a57-0f1f6f0c7a11'
const DESTINATION = 'b0ff8d6a-52d1-4c87-8a3e-6f4f1c1b9d22'
/** The transfer of all examples, as a request asks for it. */
export const ASKED = { source: SOURCE, destination: DESTINATION, amount: '12.50' }
const JOB = '01939a3e-7c52-7d04-9c11-0a8a2b6f4e33'
const MOMENT = '2026-01-31T12:00:00.123456Z'

const id = z.guid()
const decimal = z.string().regex(/^-?\d{1,24}(\.\d{1,8})?$/)
const moment = z.iso.datetime().describe('RFC 3339, UTC')
const index = z.int().min(0).describe("its place in the chain of the source's decisions")
const reason = z.enum(REASONS).describe('in order of precedence: the first that applies')

const transfer = { id, source: id, destination: id, amount: decimal }
const transferExample = { id: ID, ...ASKED }
const decided = { ...transfer, index, recorded_at: moment }
const decidedExample = { ...transferExample, index: 0, recorded_at: MOMENT }
const queuedExample = { ...transferExample, status: 'queued', job: JOB }

const posted = z
  .object({ ...decided, status: z.literal('posted') })
  .meta({ id: 'PostedTransfer', examples: [{ ...decidedExample, status: 'posted' }] })

const rejected = z.object({ ...decided, status: z.literal('rejected'), reason }).meta({
  id: 'RejectedTransfer',
  examples: [{ ...decidedExample, status: 'rejected', reason: 'insufficient_funds' }],
})

export const decision = z.discriminatedUnion('status', [posted, rejected]).meta({ id: 'Decision' })

export const queued = z
  .object({ ...transfer, status: z.literal('queued'), job: id.describe('the job that carries it') })
  .meta({ id: 'QueuedTransfer', examples: [queuedExample] })

export const transferState = z.discriminatedUnion('status', [posted, rejected, queued]).meta({ id: 'TransferState' })

export const acceptedBatch = z
  .object({ ids: z.array(id).describe('in the order of the request'), jobs: z.array(id).max(1) })
  .meta({ id: 'AcceptedBatch', examples: [{ ids: [ID], jobs: [JOB] }] })

const account = { id, overdraft: z.boolean().describe('whether it may go below zero'), created_at: moment }
const accountExample = { id: SOURCE, overdraft: false, created_at: MOMENT }

export const accountBody = z.object(account).meta({ id: 'Account', examples: [accountExample] })

export const openedAccount = z
  .object({ ...account, funding: transferState.optional().describe('the transfer of its opening balance') })
  .meta({ id: 'OpenedAccount', examples: [accountExample, { ...accountExample, funding: queuedExample }] })

export const balance = z
  .object({ account: id, balance: decimal, at: moment.optional().describe('if it was asked for') })
  .meta({ id: 'Balance', examples: [{ account: SOURCE, balance: '87.50' }] })

const line = z.object({
  id,
  direction: z.enum(['sent', 'received']),
  account: id.describe('the other side'),
  amount: decimal,
  index,
  status: z.enum(['posted', 'rejected']),
  reason: reason.optional(),
  recorded_at: moment,
})

export const statement = z
  .object({
    account: id,
    transfers: z.array(line).max(100),
    next_cursor: z.string().nullable().describe('of the next page; null on the last one'),
  })
  .meta({
    id: 'Statement',
    examples: [
      {
        account: SOURCE,
        transfers: [
          {
            ...{ id: ID, direction: 'sent', account: DESTINATION, amount: '12.50' },
            ...{ index: 0, status: 'posted', recorded_at: MOMENT },
          },
        ],
        next_cursor: null,
      },
    ],
  })

export const history = z
  .object({
    account: id,
    points: z
      .array(z.object({ at: moment, balance: decimal.nullable().describe('null while it was not open') }))
      .max(500),
  })
  .meta({ id: 'History', examples: [{ account: SOURCE, points: [{ at: MOMENT, balance: '87.50' }] }] })

const total = z.int().min(0)

export const job = z
  .object({
    id,
    state: z.enum(['waiting', 'prioritized', 'delayed', 'active', 'completed', 'failed']),
    attempts: total,
    transfers: total,
    posted: total.nullable(),
    rejected: total.nullable(),
    submitted_at: moment,
    started_at: moment.nullable(),
    finished_at: moment.nullable(),
    failure: z.string().nullable(),
  })
  .meta({
    id: 'Job',
    examples: [
      {
        ...{ id: JOB, state: 'completed', attempts: 1, transfers: 3, posted: 2, rejected: 1, failure: null },
        ...{ submitted_at: MOMENT, started_at: MOMENT, finished_at: MOMENT },
      },
    ],
  })

export const ready = z
  .object({ status: z.literal('ready'), database: z.literal('up'), queue: z.literal('up') })
  .meta({ id: 'Ready', examples: [{ status: 'ready', database: 'up', queue: 'up' }] })

/** What /problems/{type} says: when it happens, and what to do then. */
export const EXPLAINED: Record<ProblemType, string> = {
  'malformed-request': 'What came is no HTTP request. The detail says in what; the connection is closed.',
  'request-timeout': 'The request did not arrive in time. Send its header within 10 s and all of it within 30 s.',
  'header-too-large': 'Address and header together are larger than 16 KiB.',
  'malformed-json': 'The body could not be read as a JSON object in UTF-8. Correct it before sending it again.',
  'invalid-request': 'The request is not as documented. `errors` lists everything wrong, by JSON pointer.',
  unauthenticated: 'The request has no token, or one that is not valid. Send Authorization: Bearer and a token.',
  forbidden: 'The token does not allow this. Use one with the scope, or of the owner, that the detail names.',
  'not-found': 'There is nothing at this address.',
  'account-not-found': 'No account of this id was open, now or at the moment asked for.',
  'transfer-not-found': 'It is neither decided nor queued. Submitting it again with the same Idempotency-Key is safe.',
  'job-not-found': 'Finished jobs are kept for a short while only. What became of their transfers is in the ledger.',
  'method-not-allowed': 'The resource exists, but does not take this method. The Allow header names those it takes.',
  'account-exists': 'An account of this id is open already, and stays as it is.',
  'content-too-large': 'The body is larger than 512 KiB. Send fewer transfers at once.',
  'unsupported-media-type': 'Send Content-Type: application/json, in UTF-8 and without Content-Encoding.',
  'key-reused': 'The key was first used with other values, named in `fields`. Use a new key for a new transfer.',
  'too-many-requests': 'More requests came than are allowed. Repeat this one after the time in Retry-After.',
  'internal-error': 'Nobody foresaw this. The error was logged under the request id.',
  unavailable: 'A store cannot be reached just now. Nothing is lost: repeat the request after Retry-After.',
  overloaded: 'More transfers are waiting than can be taken on. Repeat the request after Retry-After.',
}

const error = z.object({ pointer: z.string(), detail: z.string() })
const fields = z.array(z.enum(['destination', 'amount'])).min(1)

/** Members beyond those that all problems have. */
const EXTRA: { [Type in ProblemType]?: z.ZodRawShape } = {
  'invalid-request': { errors: z.array(error).min(1).optional() },
  forbidden: { errors: z.array(error).min(1).optional() },
  'key-reused': {
    id: id.optional(),
    fields: fields.optional(),
    errors: z
      .array(z.object({ pointer: z.string(), id, fields }))
      .min(1)
      .optional(),
  },
  unavailable: { down: z.array(z.enum(['database', 'queue'])).optional() },
}

/** The body of one type of problem. */
function problemOf(type: ProblemType) {
  const [status, title] = PROBLEMS[type]
  return z
    .object({
      type: z.literal(`/problems/${type}`),
      title: z.literal(title),
      status: z.literal(status),
      detail: z.string().describe('what is wrong with this very request'),
      request_id: z.string(),
      ...EXTRA[type],
    })
    .meta({
      id: `Problem-${type}`,
      description: EXPLAINED[type],
      examples: [{ type: `/problems/${type}`, title, status, detail: EXPLAINED[type], request_id: '5f2c1d3e-1a' }],
    })
}

export const PROBLEM_TYPES = Object.keys(PROBLEMS) as ProblemType[]

export const PROBLEM_BODIES = Object.fromEntries(PROBLEM_TYPES.map((type) => [type, problemOf(type)])) as Record<
  ProblemType,
  ReturnType<typeof problemOf>
>

/** For clients: a problem of whatever type. */
export type ProblemBody = {
  type: `/problems/${ProblemType}`
  title: string
  status: number
  detail: string
  request_id: string
  id?: string
  errors?: { pointer: string; detail?: string; id?: string; fields?: string[] }[]
  fields?: string[]
  down?: string[]
}

export const problemExplained = z
  .object({ type: z.string(), title: z.string(), status: z.int().min(400).max(599), detail: z.string() })
  .meta({ id: 'ProblemType' })
