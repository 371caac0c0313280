/*
 * The documentation over HTTP: the OpenAPI document, two pages that show it, and what each type of problem means.
 *
 * Open to everyone, and all from here: no page loads anything from elsewhere or reports to anybody. Scripts are files of
 * their own, so that a Content-Security-Policy may forbid inline ones.
 */
import { createHash } from 'node:crypto'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Router } from '@koa/router'
import type { Context } from 'koa'
import send from 'koa-send'
import { answer } from './answer.ts'
import { makeDocument } from './openapi.ts'
import { PROBLEMS, Problem } from './problem.ts'
import { EXPLAINED, PROBLEM_TYPES } from './schema.ts'
import { asPage, contentSecurityPolicy } from './security.ts'

const SWAGGER_UI = folderOf(import.meta.resolve('swagger-ui-dist/package.json'))
const REDOC = folderOf(import.meta.resolve('redoc/bundles/redoc.standalone.js'))

/** The only files served, by name: nothing else of a package can be asked for. */
const FILES = new Map([
  ['swagger-ui.css', SWAGGER_UI],
  ['swagger-ui-bundle.js', SWAGGER_UI],
  ['favicon-32x32.png', SWAGGER_UI],
  ['redoc.standalone.js', REDOC],
])

// Without the null, Swagger UI sends the document's address to a validator on the internet; without disableTelemetry,
// ReDoc reports its use.
const SCRIPTS = new Map([
  [
    'swagger-ui-start.js',
    `SwaggerUIBundle({ url: '/openapi.json', dom_id: '#page', deepLinking: true, validatorUrl: null })`,
  ],
  [
    'redoc-start.js',
    `import { init } from '/docs/redoc.standalone.js'
init('/openapi.json', { disableTelemetry: true }, document.getElementById('page'))`,
  ],
])

/**
 * Both write styles into the page; ReDoc searches in a worker, and brings a font. Its maker's logo, which is elsewhere, is
 * not fetched.
 */
const POLICY = contentSecurityPolicy({
  styleSrc: ["'self'", "'unsafe-inline'"],
  fontSrc: ["'self'", 'data:'],
  imgSrc: ["'self'", 'data:'],
  workerSrc: ["'self'", 'blob:'],
})

function page(title: string, head: string, scripts: string): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title}</title>
<link rel="icon" href="/docs/favicon-32x32.png">
${head}
</head>
<body>
<div id="page"></div>
${scripts}
</body>
</html>
`
}

const SWAGGER_PAGE = page(
  'Transfer: Swagger UI',
  '<link rel="stylesheet" href="/docs/swagger-ui.css">',
  '<script src="/docs/swagger-ui-bundle.js"></script>\n<script src="/docs/swagger-ui-start.js"></script>',
)
const REDOC_PAGE = page('Transfer: ReDoc', '', '<script type="module" src="/docs/redoc-start.js"></script>')

export function docsRoutes(router: Router): void {
  // Made when somebody asks: it takes 20 ms and 4 MB that most processes can do without.
  let made: { text: string; etag: string } | undefined
  const make = () => {
    const text = JSON.stringify(makeDocument())
    return { text, etag: `"${createHash('sha256').update(text).digest('base64url')}"` }
  }

  router.get('/openapi.json', (ctx) => {
    made ??= make()
    ctx.set({ ETag: made.etag, 'Cache-Control': 'no-cache' })
    ctx.status = 200
    if (ctx.fresh) ctx.status = 304
    else respond(ctx, 'application/json', made.text)
  })

  for (const [path, shown] of [
    ['/docs', SWAGGER_PAGE],
    ['/redoc', REDOC_PAGE],
  ] as const) {
    router.get(path, (ctx) => {
      asPage(ctx, POLICY)
      respond(ctx, 'text/html', shown)
    })
  }

  router.get('/docs/:file', async (ctx) => {
    const file = ctx.params.file ?? ''
    const [script, root] = [SCRIPTS.get(file), FILES.get(file)]
    if (script !== undefined) respond(ctx, 'text/javascript', script)
    else if (root !== undefined) await send(ctx, file, { root, maxage: 3_600_000, brotli: false, gzip: false })
    else throw new Problem('not-found', `there is nothing at ${ctx.path}`)
  })

  router.get('/problems/:type', (ctx) => {
    const type = PROBLEM_TYPES.find((known) => known === ctx.params.type)
    if (!type) throw new Problem('not-found', `there is no such type of problem: ${PROBLEM_TYPES.join(', ')}`)
    const [status, title] = PROBLEMS[type]
    answer(ctx, 200, { type: `/problems/${type}`, title, status, detail: EXPLAINED[type] })
  })
}

function respond(ctx: Context, type: string, body: string): void {
  ctx.type = type
  ctx.body = body
}

function folderOf(url: string): string {
  return dirname(fileURLToPath(url))
}
