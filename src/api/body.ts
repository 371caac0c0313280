/*
 * Request bodies: JSON, of bounded size, with no number that may have been rounded.
 */
import { bodyParser } from '@koa/bodyparser'
import type { Context, Middleware, Next } from 'koa'
import { Problem } from './problem.ts'

/** Enough for 1,000 transfers with keys of 255 characters. */
const BODY_LIMIT = '512kb'

/** Parses the body into `ctx.request.body`. An absent body is an empty object. */
export function readBody(): Middleware {
  const parseJson = bodyParser({ enableTypes: ['json'], jsonLimit: BODY_LIMIT, jsonStrict: true })
  return async (ctx: Context, next: Next) => {
    if (ctx.request.length !== 0 && ctx.request.is('json') === false) {
      throw new Problem(
        'unsupported-media-type',
        `send Content-Type: application/json, not ${ctx.get('Content-Type') || 'none'}`,
      )
    }
    await parseJson(ctx, async () => {
      const { rawBody } = ctx.request
      if (rawBody !== undefined && A_NUMBER.test(rawBody))
        ctx.request.body = JSON.parse(rawBody, onlyPlainIntegers as Reviver)
      await next()
    })
  }
}

type Reviver = (key: string, value: unknown) => unknown

/** May also match inside a string: then the body is parsed a second time for nothing. */
const A_NUMBER = /[:,[]\s*-?\d/

/** A fraction or an exponent has been through a float by now, and may look like an integer: no schema can tell. */
function onlyPlainIntegers(_key: string, value: unknown, context: { source?: string }): unknown {
  return typeof value === 'number' && !/^-?\d+$/.test(context.source ?? '') ? Number.NaN : value
}
