/*
 * Problems
 *
 * Every answer that is not what was asked for, as RFC 9457 problem details with a stable `type`. A bad request is a
 * 4xx that says what to send, an outage a 503 that says when to come back; what nobody foresaw is a 500, logged once
 * with its cause and answered with nothing but the request id.
 */
import { randomUUID } from 'node:crypto'
import type { Context, Middleware, Next } from 'koa'
import type { Logger } from 'pino'
import type { z } from 'zod'
import { OverloadError } from '../batch.ts'
import { isPassing } from '../db/fault.ts'
import { answer, finish } from './answer.ts'

/** The closed set: each type with its status and title. The URI of a type is /problems/{type}. */
export const PROBLEMS = {
  'malformed-request': [400, 'The request is not HTTP'],
  'malformed-json': [400, 'The body is not JSON'],
  'invalid-request': [400, 'The request is not valid'],
  unauthenticated: [401, 'Who is calling is not known'],
  forbidden: [403, 'The caller may not do this'],
  'not-found': [404, 'No such resource'],
  'account-not-found': [404, 'No such account'],
  'transfer-not-found': [404, 'No such transfer'],
  'job-not-found': [404, 'No such job'],
  'method-not-allowed': [405, 'The resource does not take this method'],
  'request-timeout': [408, 'The request took too long to arrive'],
  'account-exists': [409, 'The account exists'],
  'content-too-large': [413, 'The body is too large'],
  'unsupported-media-type': [415, 'The body must be application/json'],
  'key-reused': [422, 'The idempotency key belongs to another transfer'],
  'too-many-requests': [429, 'Too many requests'],
  'header-too-large': [431, 'Address and header are too large'],
  'internal-error': [500, 'Something went wrong here'],
  unavailable: [503, 'Temporarily unavailable'],
  overloaded: [503, 'Too much to do'],
} as const satisfies Record<string, readonly [number, string]>

export type ProblemType = keyof typeof PROBLEMS

/** @param extra members added to the body, such as `errors` or `fields`. */
export class Problem extends Error {
  override name = 'Problem'
  readonly type: ProblemType
  readonly extra: Record<string, unknown>

  constructor(type: ProblemType, detail: string, extra: Record<string, unknown> = {}, cause?: unknown) {
    super(detail, { cause })
    this.type = type
    this.extra = extra
  }
}

/** Parses what a client sent. @throws Problem invalid-request that lists everything wrong, by JSON pointer. */
export function parse<Schema extends z.ZodType>(schema: Schema, given: unknown, at = ''): z.output<Schema> {
  const parsed = schema.safeParse(given)
  if (parsed.success) return parsed.data
  const errors = parsed.error.issues.flatMap((issue) => {
    const pointer = `${at}${issue.path.map((step) => `/${String(step)}`).join('')}`
    if (issue.code === 'unrecognized_keys') {
      return issue.keys.map((key) => ({ pointer: `${pointer}/${key}`, detail: 'unknown: leave it out' }))
    }
    const missing = issue.path.length > 0 && reachInto(given, issue.path) === undefined
    return { pointer, detail: missing ? `missing: ${issue.message}` : `must be ${issue.message}` }
  })
  const [first] = errors
  const rest = errors.length > 1 ? `, and ${errors.length - 1} more` : ''
  throw new Problem('invalid-request', `${first?.pointer || 'the request'}: ${first?.detail}${rest}`, { errors })
}

function reachInto(given: unknown, path: PropertyKey[]): unknown {
  return path.reduce((value, step) => (value as Record<PropertyKey, unknown> | null | undefined)?.[step], given)
}

/**
 * Waits for a store, but not for long: a store that is down or hangs is a 503 now.
 *
 * @throws Problem unavailable.
 */
export async function reach<Result>(store: 'database' | 'queue', work: Promise<Result>): Promise<Result> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(unavailable(store, new Error(`no answer in ${REACH_LIMIT_MS} ms`))), REACH_LIMIT_MS)
  })
  try {
    return await Promise.race([work, late])
  } catch (error) {
    if (error instanceof Problem) throw error
    if (store === 'queue' || isPassing(error)) throw unavailable(store, error)
    throw error
  } finally {
    clearTimeout(timer)
  }
}

/** Below the second within which an outage is answered. */
const REACH_LIMIT_MS = 900

export function unavailable(store: 'database' | 'queue', cause: unknown): Problem {
  const detail =
    `the ${store} cannot be reached just now. Nothing is lost: repeat the request. ` +
    'A transfer repeated with the same Idempotency-Key is posted once, even if this request got through after all'
  return new Problem('unavailable', detail, {}, cause)
}

/** The one funnel: gives each request its id, and turns whatever goes wrong into a problem. */
export function problems(log: Logger): Middleware {
  // Unique without drawing randomness for every request.
  const boot = randomUUID().slice(0, 8)
  let requests = 0
  return async (ctx: Context, next: Next) => {
    const given = ctx.get('X-Request-ID')
    const requestId = /^[\w.:+/=-]{1,128}$/.test(given) ? given : `${boot}-${(++requests).toString(36)}`
    ctx.state.request_id = requestId
    try {
      // Node would say so without a word (requireHostHeader).
      if (ctx.req.headers.host === undefined && ctx.req.httpVersion === '1.1') {
        throw new Problem('malformed-request', 'send a Host header')
      }
      await next()
      if (ctx.headerSent) return
      // What no route answered: koa and its router say so by status alone.
      if (ctx.status === 404 && ctx.body === undefined) {
        throw new Problem('not-found', `there is nothing at ${ctx.path}`)
      }
      if (ctx.status === 405 || ctx.status === 501) {
        throw new Problem('method-not-allowed', `${ctx.path} takes ${ctx.response.get('Allow')}`)
      }
      finish(ctx)
    } catch (error) {
      const problem = asProblem(error)
      const document = describe(problem, requestId)
      const { status } = document
      if (status === 500) log.error({ err: error, request_id: requestId, path: ctx.path }, 'request failed')
      else
        log.debug(
          { request_id: requestId, type: problem.type, cause: problem.cause && String(problem.cause) },
          problem.message,
        )
      if (status === 503) ctx.set('Retry-After', '1')
      // A browser asks its user for a password when told Basic; a program shall not be told to.
      if (status === 401)
        ctx.set('WWW-Authenticate', [
          'Bearer realm="transfer"',
          ...(/text\/html/.test(ctx.get('Accept')) ? ['Basic realm="transfer", charset="UTF-8"'] : []),
        ])
      answer(ctx, status, document, [], 'application/problem+json')
    }
  }
}

/** The document that stands for a problem. */
export function describe(problem: Problem, request_id: string) {
  const [status, title] = PROBLEMS[problem.type]
  return { type: `/problems/${problem.type}`, title, status, detail: problem.message, request_id, ...problem.extra }
}

function asProblem(error: unknown): Problem {
  if (error instanceof Problem) return error
  if (error instanceof OverloadError) {
    return new Problem('overloaded', 'more is waiting than can be taken on: repeat the request later', {}, error)
  }
  // The body parser's errors carry a status, as koa's do.
  const status = error instanceof Error && 'status' in error ? error.status : undefined
  if (status === 413) return new Problem('content-too-large', 'send fewer transfers at once', {}, error)
  if (status === 415) return new Problem('unsupported-media-type', 'send Content-Type: application/json', {}, error)
  if (status === 400) return new Problem('malformed-json', 'the body cannot be read as a JSON object', {}, error)
  return new Problem('internal-error', 'the error was logged under the request id', {}, error)
}
