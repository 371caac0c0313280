/*
 * The console
 *
 * One page at /: what the system is doing, accounts and transfers to look up, forms to try it with. The page is plain ES
 * modules (console/), served as they are from a table read at start; it needs nothing from anywhere else, and uses only
 * the routes that everybody has.
 */
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import type { Router } from '@koa/router'
import type { Context } from 'koa'
import { Problem } from './problem.ts'
import { asPage } from './security.ts'

const FOLDER = new URL('console/', import.meta.url)
/** Drawn with by the page's modules, under the name they import. */
const LIBRARY = {
  'uPlot.js': import.meta.resolve('uplot/dist/uPlot.esm.js'),
  'uPlot.css': import.meta.resolve('uplot/dist/uPlot.min.css'),
}

const TYPES: Record<string, string> = {
  html: 'text/html; charset=utf-8',
  css: 'text/css; charset=utf-8',
  js: 'text/javascript; charset=utf-8',
  svg: 'image/svg+xml',
}

type File = { type: string; etag: string; bytes: Buffer }

function readFiles(): Map<string, File> {
  const own = readdirSync(FOLDER).map((name) => [name, new URL(name, FOLDER)] as const)
  const library = Object.entries(LIBRARY).map(([name, url]) => [name, new URL(url)] as const)
  const files = [...own, ...library].flatMap(([name, url]): [string, File][] => {
    const type = TYPES[name.split('.').at(-1) ?? '']
    if (!type) return []
    const bytes = readFileSync(url)
    return [[name, { type, etag: `"${createHash('sha256').update(bytes).digest('base64url')}"`, bytes }]]
  })
  return new Map(files)
}

/** Without `demand`: the page itself is no secret, and is where a token is asked for. */
export function consoleRoutes(router: Router): void {
  const files = readFiles()

  function send(ctx: Context, name: string): void {
    const file = files.get(name)
    if (!file) throw new Problem('not-found', `there is nothing at ${ctx.path}`)
    asPage(ctx)
    ctx.status = 200
    ctx.type = file.type
    ctx.set('ETag', file.etag)
    // Kept, but asked for again each time: a page of one release never runs the modules of another.
    ctx.set('Cache-Control', 'no-cache')
    if (ctx.fresh) ctx.status = 304
    else ctx.body = file.bytes
  }

  router.get('/', (ctx) => send(ctx, 'index.html'))
  router.get('/console/:name', (ctx) => send(ctx, String(ctx.params.name)))
}
