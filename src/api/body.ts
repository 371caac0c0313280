/*
 * Request bodies: JSON in UTF-8, of bounded size, with no number that may have been rounded.
 *
 * raw-body reads, as it does beneath every body parser of Koa; those themselves took a fifth of the API's time, most of it
 * for encodings and types that are refused here.
 */
import { isUtf8 } from 'node:buffer'
import type { Context } from 'koa'
import getRawBody from 'raw-body'
import { Problem } from './problem.ts'

/** Bytes. Enough for 1,000 transfers with keys of 255 letters. */
const BODY_LIMIT = 512 * 1024

/**
 * Reads the body, when a route asks for it: who is refused before that is refused unread.
 *
 * @returns what the client sent, not yet looked at; of an absent body, an empty object.
 * @throws Problem unsupported-media-type, content-too-large or malformed-json.
 */
export async function readBody({ req, res }: Pick<Context, 'req' | 'res'>): Promise<object> {
  const expected = req.headers['content-length']
  if (expected === '0' || (expected === undefined && req.headers['transfer-encoding'] === undefined)) return {}
  const type = req.headers['content-type'] ?? 'none'
  if (!JSON_TYPE.test(type) || (req.headers['content-encoding'] ?? 'identity') !== 'identity') {
    throw new Problem('unsupported-media-type', `send Content-Type: application/json in plain UTF-8, not ${type}`)
  }
  if (Number(expected) > BODY_LIMIT) throw new Problem('content-too-large', 'send fewer transfers at once')
  if (req.headers.expect !== undefined) res.writeContinue()
  return parseJson(await getRawBody(req, { length: expected ?? null, limit: BODY_LIMIT }))
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
