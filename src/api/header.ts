/*
 * Request headers and query parameters that more than one route reads.
 */
import { isUtf8 } from 'node:buffer'
import type { Context } from 'koa'
import { z } from 'zod'
import { idempotencyKey, uuid } from '../transfer.ts'
import { Problem, parse } from './problem.ts'

const WAIT_LIMIT_SECONDS = 30

/** The Idempotency-Key header, if there is one. Node reads headers byte by byte; clients send UTF-8. */
export function readKey(ctx: Context): string | undefined {
  const given = ctx.req.headers['idempotency-key'] as string | undefined
  if (given === undefined) return undefined
  // Two of them arrive joined, as one key that nobody sent.
  if (given.includes(', ') && ctx.req.headersDistinct['idempotency-key']?.length !== 1) {
    throw new Problem('invalid-request', 'header Idempotency-Key: send it once')
  }
  const bytes = Buffer.from(given, 'latin1')
  // Decoded all the same, every stray byte would become the same character, and different keys one transfer.
  if (!isUtf8(bytes)) throw new Problem('invalid-request', 'header Idempotency-Key: must be in UTF-8')
  return parse(idempotencyKey, bytes.toString('utf8'), 'header Idempotency-Key')
}

/** `Prefer: wait=N` (RFC 7240) in seconds, 30 at most; 0 if the client does not ask to wait. */
export function readWait(ctx: Context): number {
  const given = ctx.req.headers.prefer
  if (given === undefined) return 0
  const wait = /(?:^|[,;\s])wait\s*=\s*"?(\d{1,9})"?/i.exec(String(given))
  return wait ? Math.min(Number(wait[1]), WAIT_LIMIT_SECONDS) : 0
}

/** Says that the wish to wait was granted. */
export function applied(ctx: Context, seconds: number): void {
  if (seconds > 0) ctx.set('Preference-Applied', `wait=${seconds}`)
}

/** An id in the path. @throws Problem invalid-request. */
export function readId(ctx: { params: Record<string, string | undefined> }, resource: string): string {
  return parse(uuid, ctx.params.id, `${resource} id`)
}

/**
 * Query parameters, each at most once.
 *
 * @param schema a strict object, made once: making one takes 35 us, and was nearly half of what a balance cost.
 * @throws Problem invalid-request.
 */
export function readQuery<Schema extends z.ZodObject>(ctx: Context, schema: Schema): z.output<Schema> {
  return parse(schema, { ...ctx.query }, 'query')
}

/** For routes that take no query parameters. @throws Problem invalid-request that names them. */
export function refuseQuery(ctx: Context): void {
  if (ctx.querystring !== '') readQuery(ctx, NO_QUERY)
}

const NO_QUERY = z.strictObject({})
