/*
 * Answers
 *
 * Whatever is data, problems included, is written here in one piece, past Koa's own way of answering: that one keeps a
 * dictionary of headers for each request and goes through it again when all is done, a fifth of what a request left for the
 * collector. Pages and files go Koa's way, and are finished here.
 */
import type { Context } from 'koa'
import { OF_DATA } from './security.ts'

const JSON_TYPE = 'application/json; charset=utf-8'

/**
 * Answers with a document; a handler's last word.
 *
 * @param headers besides those of every answer: name, value, name, value ...
 */
export function answer(
  ctx: Context,
  status: number,
  document: object,
  headers: readonly string[] = [],
  type = JSON_TYPE,
): void {
  const text = JSON.stringify(document)
  const own = [
    'X-Request-ID',
    ctx.state.request_id,
    'Content-Type',
    type,
    'Content-Length',
    `${Buffer.byteLength(text)}`,
  ]
  ctx.respond = false
  ctx.res.writeHead(status, OF_DATA.concat(own, headers)).end(text)
}

/** Sets what every answer carries, where it is not set yet. */
export function finish(ctx: Context): void {
  ctx.set('X-Request-ID', ctx.state.request_id)
  for (let at = 0; at < OF_DATA.length; at += 2) {
    const [name = '', value = ''] = OF_DATA.slice(at, at + 2)
    if (!ctx.res.hasHeader(name)) ctx.res.setHeader(name, value)
  }
}
