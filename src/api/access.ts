/*
 * Access
 *
 * Who is calling, and what they may do. Each route demands the scope it needs; whose account it is, is asked where the
 * account is at hand.
 */
import type { Context, Middleware, Next } from 'koa'
import { Problem } from './problem.ts'

export const SCOPES = ['accounts:write', 'transfers:write', 'read', 'operate'] as const
export type Scope = (typeof SCOPES)[number]

/** `name` owns the accounts it opens; null where nobody has to say who they are. */
export type Caller = { name: string | null; scopes: ReadonlySet<Scope> }

/** Whoever calls while no token is configured: the service listens on loopback only. */
const ANYONE: Caller = { name: null, scopes: new Set(SCOPES) }

/** Finds out who is calling, before any route. */
export function authenticate(): Middleware {
  return async (ctx: Context, next: Next) => {
    ctx.state.caller = ANYONE
    await next()
  }
}

/** @throws Problem unauthenticated or forbidden. */
export function demand(ctx: Context, scope: Scope): Caller {
  const caller: Caller | undefined = ctx.state.caller
  if (!caller) throw new Problem('unauthenticated', 'send Authorization: Bearer and a token')
  if (!caller.scopes.has(scope)) throw new Problem('forbidden', `this needs a token with the scope ${scope}`)
  return caller
}
