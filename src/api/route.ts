/*
 * The routes
 *
 * One row for each: what it takes, what it answers, which problems it may have and which scope it needs. The OpenAPI
 * document (openapi.ts) and the typed client (../client.ts) are made of this table, and the tests hold the routers and
 * every answer against it. Requests are described by the schemas that parse them.
 *
 * A new route is one more row.
 */
import { z } from 'zod'
import { accountRequest, batchRequest, idempotencyKey, transferRequest, uuid } from '../transfer.ts'
import type { Scope } from './access.ts'
import { balanceQuery, historyQuery, statementQuery } from './account.ts'
import type { ProblemType } from './problem.ts'
import * as schema from './schema.ts'
import { keyQuery, transferQuery } from './transfer.ts'

type Answer = {
  description: string
  /** Without it, the answer has no body. */
  body?: z.ZodType
  /** application/json unless told. */
  type?: string
  headers?: z.ZodRawShape
}

export type Route = {
  tag: 'Transfers' | 'Accounts' | 'Operation' | 'Documentation'
  summary: string
  /** Without it, anyone may ask. */
  scope?: Scope
  params?: z.ZodObject
  query?: z.ZodObject
  headers?: z.ZodObject
  body?: z.ZodType
  answers: Record<number, Answer>
  /** Beside those that every route of its kind has (openapi.ts). */
  problems?: readonly ProblemType[]
}

const prefer = z
  .string()
  .optional()
  .meta({
    description: '`wait=N` waits for the decision for N seconds, 30 at most (RFC 7240)',
    examples: ['wait=5'],
  })
const key = idempotencyKey.optional().meta({
  description: 'one key of one source is one transfer for ever; in UTF-8',
  examples: ['invoice-4711'],
})
const byId = z.object({ id: uuid })
const location = z.string().describe('where to ask what became of it')
const applied = z
  .string()
  .regex(/^wait=\d+$/)
  .optional()
  .describe('the wait that was granted')
const replayed = z.literal('true').optional().describe('the key was decided before: this is the first decision')
const etag = z.string().describe('changes with the content')
const text = z.string()

export const routes = {
  'POST /transfers': {
    tag: 'Transfers',
    summary: 'Submit a transfer',
    scope: 'transfers:write',
    headers: z.object({ 'Idempotency-Key': key, Prefer: prefer }),
    body: transferRequest.meta({ id: 'TransferRequest', examples: [schema.ASKED] }),
    answers: {
      200: {
        description: 'Decided: posted or rejected',
        body: schema.decision,
        headers: { Location: location.optional(), 'Preference-Applied': applied, 'Idempotent-Replayed': replayed },
      },
      202: { description: 'Stored in the queue', body: schema.queued, headers: { Location: location } },
    },
    problems: ['key-reused', 'unavailable', 'overloaded'],
  },
  'POST /transfers/batch': {
    tag: 'Transfers',
    summary: 'Submit 1 to 1,000 transfers: all are accepted or none',
    scope: 'transfers:write',
    body: batchRequest.meta({
      id: 'BatchRequest',
      examples: [{ transfers: [{ key: 'invoice-4711', ...schema.ASKED }] }],
    }),
    answers: { 202: { description: 'Stored in the queue, or decided before', body: schema.acceptedBatch } },
    problems: ['key-reused', 'unavailable', 'overloaded'],
  },
  'GET /transfers': {
    tag: 'Transfers',
    summary: 'What became of the transfer with this source and key',
    scope: 'read',
    query: keyQuery,
    headers: z.object({ Prefer: prefer }),
    answers: {
      200: {
        description: 'Queued, posted or rejected',
        body: schema.transferState,
        headers: { 'Preference-Applied': applied },
      },
    },
    problems: ['invalid-request', 'transfer-not-found', 'unavailable'],
  },
  'GET /transfers/{id}': {
    tag: 'Transfers',
    summary: 'What became of a transfer',
    scope: 'read',
    params: byId,
    query: transferQuery,
    headers: z.object({ Prefer: prefer }),
    answers: {
      200: {
        description: 'Queued, posted or rejected',
        body: schema.transferState,
        headers: { 'Preference-Applied': applied },
      },
    },
    problems: ['invalid-request', 'transfer-not-found', 'unavailable'],
  },
  'POST /accounts': {
    tag: 'Accounts',
    summary: 'Open an account',
    scope: 'accounts:write',
    headers: z.object({ Prefer: prefer }),
    body: accountRequest.meta({
      id: 'AccountRequest',
      examples: [{ id: schema.ASKED.source, balance: '100.00' }],
    }),
    answers: {
      201: {
        description: 'Open; its balance, if any, is on its way or there',
        body: schema.openedAccount,
        headers: { Location: location, 'Preference-Applied': applied },
      },
    },
    problems: ['account-exists', 'unavailable', 'overloaded'],
  },
  'GET /accounts/{id}': {
    tag: 'Accounts',
    summary: 'An account',
    scope: 'read',
    params: byId,
    answers: { 200: { description: 'The account', body: schema.accountBody } },
    problems: ['invalid-request', 'account-not-found', 'unavailable'],
  },
  'GET /accounts/{id}/balance': {
    tag: 'Accounts',
    summary: 'Its balance, now or at a past moment',
    scope: 'read',
    params: byId,
    query: balanceQuery,
    answers: { 200: { description: 'The balance', body: schema.balance } },
    problems: ['invalid-request', 'account-not-found', 'unavailable'],
  },
  'GET /accounts/{id}/history': {
    tag: 'Accounts',
    summary: 'Its balance at so many moments, evenly apart',
    scope: 'read',
    params: byId,
    query: historyQuery,
    answers: { 200: { description: 'The balances, oldest first', body: schema.history } },
    problems: ['invalid-request', 'account-not-found', 'unavailable'],
  },
  'GET /accounts/{id}/transfers': {
    tag: 'Accounts',
    summary: 'Its statement, newest first',
    scope: 'read',
    params: byId,
    query: statementQuery,
    answers: { 200: { description: 'A page', body: schema.statement } },
    problems: ['invalid-request', 'account-not-found', 'unavailable'],
  },
  'GET /jobs/{id}': {
    tag: 'Operation',
    summary: 'A job: state, attempts, how many were posted and rejected',
    scope: 'read',
    params: byId,
    answers: { 200: { description: 'The job', body: schema.job } },
    problems: ['invalid-request', 'job-not-found', 'unavailable'],
  },
  'GET /health': {
    tag: 'Operation',
    summary: 'Whether the process is alive',
    answers: { 204: { description: 'It is' } },
  },
  'GET /health/ready': {
    tag: 'Operation',
    summary: 'Whether what it needs is there',
    answers: { 200: { description: 'It is', body: schema.ready } },
    problems: ['unavailable'],
  },
  'GET /dashboard': {
    tag: 'Operation',
    summary: "The queue's jobs, for browsers",
    scope: 'operate',
    answers: { 200: { description: 'A page; what it loads is below /dashboard/', body: text, type: 'text/html' } },
  },
  'GET /metrics': {
    tag: 'Operation',
    summary: 'What Prometheus collects',
    scope: 'read',
    answers: { 200: { description: 'All metrics', body: text, type: 'text/plain' } },
  },
  'GET /live': {
    tag: 'Operation',
    summary: 'Rates, latency, queue and the sum of all balances, once a second',
    scope: 'read',
    answers: {
      200: { description: 'Server-sent events, until either side ends', body: text, type: 'text/event-stream' },
    },
    problems: ['overloaded'],
  },
  'GET /': {
    tag: 'Documentation',
    summary: 'The console',
    answers: {
      200: { description: 'A page', body: text, type: 'text/html', headers: { ETag: etag } },
      304: { description: 'As the client has it', headers: { ETag: etag } },
    },
  },
  'GET /console/{name}': {
    tag: 'Documentation',
    summary: 'A module or style of the console',
    params: z.object({ name: text }),
    answers: {
      200: { description: 'The file', body: text, type: '*/*', headers: { ETag: etag } },
      304: { description: 'As the client has it', headers: { ETag: etag } },
    },
    problems: ['not-found'],
  },
  'GET /openapi.json': {
    tag: 'Documentation',
    summary: 'This document',
    answers: {
      200: { description: 'The document', body: z.looseObject({ openapi: z.string() }), headers: { ETag: etag } },
      304: { description: 'As the client has it', headers: { ETag: etag } },
    },
  },
  'GET /docs': {
    tag: 'Documentation',
    summary: 'This document in Swagger UI',
    answers: { 200: { description: 'A page', body: text, type: 'text/html' } },
  },
  'GET /redoc': {
    tag: 'Documentation',
    summary: 'This document in ReDoc',
    answers: { 200: { description: 'A page', body: text, type: 'text/html' } },
  },
  'GET /docs/{file}': {
    tag: 'Documentation',
    summary: 'A script or style of the pages',
    params: z.object({ file: text }),
    answers: { 200: { description: 'The file', body: text, type: '*/*' } },
    problems: ['not-found'],
  },
  'GET /problems/{type}': {
    tag: 'Documentation',
    summary: 'What a type of problem means',
    params: z.object({ type: text }),
    answers: { 200: { description: 'When it happens and what to do', body: schema.problemExplained } },
    problems: ['not-found'],
  },
} as const satisfies Record<string, Route>
