/*
 * Request bodies: JSON in UTF-8, of bounded size, with no number that may have been rounded.
 *
 * raw-body reads, as it does beneath every body parser of Koa; those themselves took a fifth of the API's time, most of it
 * for encodings and types that are refused here.
 */
import { isUtf8 } from 'node:buffer'
import type { Context, Middleware, Next } from 'koa'
import getRawBody from 'raw-body'
import { Problem } from './problem.ts'

/** Bytes. Enough for 1,000 transfers with keys of 255 characters. */
const BODY_LIMIT = 512 * 1024

/** Parses the body into `ctx.request.body`. An absent body is an empty object. */
export function readBody(): Middleware {
  return async (ctx: Context, next: Next) => {
    const { req } = ctx
    const expected = req.headers['content-length']
    if (expected === '0' || (expected === undefined && req.headers['transfer-encoding'] === undefined)) {
      ctx.request.body = {}
      return await next()
    }
    const type = req.headers['content-type'] ?? 'none'
    if (!JSON_TYPE.test(type) || (req.headers['content-encoding'] ?? 'identity') !== 'identity') {
      throw new Problem('unsupported-media-type', `send Content-Type: application/json in plain UTF-8, not ${type}`)
    }
    const bytes = await getRawBody(req, { length: expected ?? null, limit: BODY_LIMIT })
    ctx.request.body = parseJson(bytes)
    await next()
  }
}

const JSON_TYPE = /^application\/json\s*(;\s*charset\s*=\s*"?utf-?8"?\s*)?$/i

/** @throws Problem malformed-json. */
function parseJson(bytes: Buffer): object {
  if (!isUtf8(bytes)) throw new Problem('malformed-json', 'the body is not UTF-8')
  const text = bytes.toString()
  try {
    const body: unknown = A_NUMBER.test(text) ? JSON.parse(text, onlyPlainIntegers as Reviver) : JSON.parse(text)
    if (typeof body === 'object' && body !== null) return body
  } catch (error) {
    throw new Problem('malformed-json', 'the body cannot be read as JSON', {}, error)
  }
  throw new Problem('malformed-json', 'the body must be a JSON object')
}

/** May also match inside a string: then the body is parsed the slow way for nothing. */
const A_NUMBER = /[:,[]\s*-?\d/

type Reviver = (key: string, value: unknown) => unknown

/** A fraction or an exponent has been through a float by now, and may look like an integer: no schema can tell. */
function onlyPlainIntegers(_key: string, value: unknown, context: { source?: string }): unknown {
  return typeof value === 'number' && !/^-?\d+$/.test(context.source ?? '') ? Number.NaN : value
}

declare module 'koa' {
  interface Request {
    /** What the client sent, not yet looked at. */
    body?: unknown
  }
}
