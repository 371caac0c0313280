/*
 * Security headers
 *
 * koa-helmet says which; they never change, so it is asked once. What is data carries what keeps it data, a page all of
 * them, with a Content-Security-Policy of its own if it needs more than the strictest.
 */
import type { Context } from 'koa'
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

const OF_A_PAGE = ask(DIRECTIVES)

/**
 * Of an answer that is data: name, value, name, value ... What else helmet sets tells a browser how to treat a page; each
 * header takes a few per cent of what a short answer costs, here and at the client.
 */
export const OF_DATA: readonly string[] = [
  ...ask({ defaultSrc: ["'none'"], frameAncestors: ["'none'"] }).filter(([name]) =>
    ['Content-Security-Policy', 'Cross-Origin-Resource-Policy', 'X-Content-Type-Options'].includes(name),
  ),
  ['Cache-Control', 'no-store'],
].flat()

/** The policy of pages with these directives changed. */
export function contentSecurityPolicy(changes: Directives): string {
  return ask({ ...DIRECTIVES, ...changes }).find(([name]) => name === 'Content-Security-Policy')?.[1] ?? ''
}

/** For whatever a browser shows. @param policy from contentSecurityPolicy(); the strictest unless told. */
export function asPage(ctx: Context, policy?: string): void {
  for (const [name, value] of OF_A_PAGE) ctx.res.setHeader(name, value)
  if (policy !== undefined) ctx.res.setHeader('Content-Security-Policy', policy)
}
