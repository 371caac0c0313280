/*
 * Access
 *
 * Who is calling, and what they may do. Each route demands the scope it needs; whose account it is, is asked where the
 * account is at hand (owner.ts). While neither tokens nor keys are configured everyone may do everything, and the
 * service listens on loopback only.
 *
 * Next: token.ts, owner.ts.
 */
import { hash, randomBytes } from 'node:crypto'
import type { Context, Middleware, Next } from 'koa'
import type { Logger } from 'pino'
import { RateLimiterMemory, RateLimiterRes } from 'rate-limiter-flexible'
import type { Settings } from '../settings.ts'
import { Problem } from './problem.ts'
import { type Caller, readCredentials, SCOPES, type Scope } from './token.ts'

export type { Caller, Scope }

/** Whoever calls while no token is configured: the service listens on loopback only. */
const ANYONE: Caller = { name: null, scopes: new Set(SCOPES) }

export type Access = {
  /** Finds out who is calling, before any route. */
  authenticate: Middleware
  /** Reads the files anew; bad ones are logged, and the old ones stay. */
  reload(): Promise<void>
}

/** @throws Error if a file cannot be used, or if anyone in the network could call without a token. */
export async function createAccess(settings: Settings, log: Logger): Promise<Access> {
  const { AUTH_TOKENS_FILE, AUTH_JWKS_URL, AUTH_JWKS_FILE, HOST, REQUEST_LIMIT, ATTEMPT_LIMIT } = settings
  if (!AUTH_TOKENS_FILE && !AUTH_JWKS_URL && !AUTH_JWKS_FILE) {
    if (!LOOPBACK.test(HOST)) {
      throw new Error(
        `HOST=${HOST} would let anyone in: set AUTH_TOKENS_FILE (npm run token makes a token), or AUTH_JWKS_URL or ` +
          'AUTH_JWKS_FILE with AUTH_ISSUER and AUTH_AUDIENCE; or HOST=127.0.0.1',
      )
    }
    const authenticate = async (ctx: Context, next: Next) => {
      refuseElsewhere(ctx)
      refuseOtherNames(ctx)
      ctx.state.caller = ANYONE
      await next()
    }
    return { authenticate, reload: async () => {} }
  }

  let credentials = await readCredentials(settings)
  const requests = new RateLimiterMemory({ points: REQUEST_LIMIT, duration: 1 })
  const attempts = new RateLimiterMemory({ points: ATTEMPT_LIMIT, duration: 60 })
  // 65,536 buckets whatever the number of addresses; salted, so that nobody can choose whom to share one with.
  const salt = randomBytes(16).toString('hex')
  const bucket = (address: string) => hash('sha256', salt + address).slice(0, 4)

  async function identify(ctx: Context, secret: string): Promise<Caller> {
    // Before the limit, so that a stranger behind the same proxy cannot lock out who has a token.
    const known = credentials.known(secret)
    if (known) return known
    const key = bucket(ctx.ip)
    const failed = await attempts.get(key)
    if (failed && failed.consumedPoints >= ATTEMPT_LIMIT) throw tooMany(ctx, failed, 'failed attempts')
    const caller = await credentials.verify(secret).catch((error: unknown) => {
      throw new Problem('unavailable', 'the keys that JWTs are checked with cannot be had just now', {}, error)
    })
    if (caller) return caller
    await attempts.penalty(key)
    throw new Problem('unauthenticated', 'the token is not known, or not valid any more')
  }

  async function limit(ctx: Context, caller: Caller): Promise<void> {
    const left = await requests.consume(String(caller.name)).catch((refused: unknown) => {
      if (refused instanceof RateLimiterRes) throw tooMany(ctx, refused, `requests, ${REQUEST_LIMIT} per second`)
      throw refused
    })
    ctx.set('RateLimit-Policy', policy)
    ctx.set('RateLimit', `"caller";r=${left.remainingPoints};t=${Math.ceil(left.msBeforeNext / 1000)}`)
  }
  // As in draft-ietf-httpapi-ratelimit-headers-10.
  const policy = `"caller";q=${REQUEST_LIMIT};w=1`

  const authenticate = async (ctx: Context, next: Next) => {
    refuseElsewhere(ctx)
    const secret = readSecret(ctx)
    if (secret !== undefined) {
      const caller = await identify(ctx, secret)
      await limit(ctx, caller)
      ctx.state.caller = caller
    } else if (ctx.method !== 'GET' && ctx.method !== 'HEAD') {
      // Before the body is read: a stranger's is not worth parsing.
      throw nobody()
    }
    await next()
  }

  async function reload(): Promise<void> {
    try {
      credentials = await readCredentials(settings)
      log.info('tokens and keys were read again')
    } catch (error) {
      log.error({ error: String(error) }, 'tokens and keys stay as they were')
    }
  }

  return { authenticate, reload }
}

/**
 * A page from anywhere may have its reader's browser send requests here, with the reader's password if there is one. A
 * browser says where a request comes from; what is no browser says nothing, and is no danger.
 *
 * @throws Problem forbidden.
 */
function refuseElsewhere(ctx: Context): void {
  const { method, headers } = ctx.req
  if (method === 'GET' || method === 'HEAD') return
  const { origin, 'sec-fetch-site': site } = headers
  const elsewhere = origin !== undefined && (!URL.canParse(origin) || new URL(origin).host !== ctx.host)
  if (elsewhere || (site !== undefined && site !== 'same-origin' && site !== 'none')) {
    throw new Problem('forbidden', 'a page of another site may not ask for this')
  }
}

/**
 * Whoever can make a name of theirs lead to this machine makes their page and this service one site to a browser.
 *
 * @throws Problem forbidden.
 */
function refuseOtherNames(ctx: Context): void {
  const { host } = ctx.req.headers
  if (host !== undefined && !LOCAL_NAME.test(host)) {
    throw new Problem('forbidden', `while no token is configured, ask for localhost or 127.0.0.1, not ${host}`)
  }
}

const LOCAL_NAME = /^(?:127\.\d+\.\d+\.\d+|\[::1\]|localhost)(?::\d+)?$/i

const LOOPBACK = /^(127\.\d+\.\d+\.\d+|::1|localhost)$/

/** Bearer, or Basic with the token as password (for browsers) and whatever user name. */
function readSecret(ctx: Context): string | undefined {
  const given = ctx.req.headers.authorization
  if (given === undefined) return undefined
  const [, scheme = '', value = ''] = /^(\w+) +(\S+)$/.exec(given) ?? []
  if (scheme.toLowerCase() === 'bearer') return value
  if (scheme.toLowerCase() !== 'basic') throw nobody()
  const text = Buffer.from(value, 'base64').toString()
  return text.slice(text.indexOf(':') + 1)
}

function tooMany(ctx: Context, { msBeforeNext }: RateLimiterRes, what: string): Problem {
  ctx.set('Retry-After', String(Math.max(1, Math.ceil(msBeforeNext / 1000))))
  return new Problem('too-many-requests', `too many ${what}`)
}

function nobody(): Problem {
  return new Problem('unauthenticated', 'send Authorization: Bearer and a token')
}

/** @throws Problem unauthenticated or forbidden. */
export function demand(ctx: Context, scope: Scope): Caller {
  const caller: Caller | undefined = ctx.state.caller
  if (!caller) throw nobody()
  if (!caller.scopes.has(scope)) throw new Problem('forbidden', `this needs a token with the scope ${scope}`)
  return caller
}
