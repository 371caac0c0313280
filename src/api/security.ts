/*
 * Security headers
 *
 * koa-helmet says which; they never change, so it is asked once. A page that needs more sets a Content-Security-Policy
 * of its own from contentSecurityPolicy().
 */
import type { Context, Middleware, Next } from 'koa'
import helmet from 'koa-helmet'

/** Strict: nothing inline, nothing from elsewhere. */
const DIRECTIVES = {
  defaultSrc: ["'self'"],
  baseUri: ["'none'"],
  formAction: ["'self'"],
  frameAncestors: ["'none'"],
  objectSrc: ["'none'"],
  // TLS ends in front of this service, if anywhere: on plain HTTP this would break every page.
  upgradeInsecureRequests: null,
}

type Directives = Record<string, Iterable<string> | null>

function ask(directives: Directives): [name: string, value: string][] {
  const headers: [string, string][] = []
  const res = { setHeader: (name: string, value: string) => void headers.push([name, value]), removeHeader: () => {} }
  // helmet works at once; only its wrapper returns a promise.
  void helmet({
    contentSecurityPolicy: { useDefaults: false, directives },
    strictTransportSecurity: false,
  })({ req: {}, res } as unknown as Context, async () => {})
  return headers
}

const HEADERS = [...ask(DIRECTIVES), ['Cache-Control', 'no-store'] as const]

/** The policy with these directives changed, for one page. */
export function contentSecurityPolicy(changes: Directives): string {
  return ask({ ...DIRECTIVES, ...changes }).find(([name]) => name === 'Content-Security-Policy')?.[1] ?? ''
}

export function security(): Middleware {
  return async (ctx: Context, next: Next) => {
    for (const [name, value] of HEADERS) ctx.res.setHeader(name, value)
    await next()
  }
}
