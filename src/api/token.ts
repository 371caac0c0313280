/*
 * Credentials
 *
 * Whose token or JWT this is. Tokens come from a file of digests, JWTs are checked against a key set, by `jose`.
 *
 * Nothing is compared with a secret: the SHA-256 of what was presented is looked up. Whoever times the look-up learns
 * about the digest of a guess, and cannot steer digests towards one that is known.
 */
import { hash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { createLocalJWKSet, createRemoteJWKSet, errors, type JWTVerifyGetKey, jwtVerify } from 'jose'
import { z } from 'zod'
import type { Settings } from '../settings.ts'

export const SCOPES = ['accounts:write', 'transfers:write', 'read', 'operate'] as const
export type Scope = (typeof SCOPES)[number]

/** `name` owns the accounts it opens; null where nobody has to say who they are. */
export type Caller = { name: string | null; scopes: ReadonlySet<Scope> }

/** A JWT's caller is `issuer|subject`: no bar here, so neither can pass for the other. */
export const tokenRecord = z.strictObject({
  name: z.string().regex(/^[\w.@-]{1,100}$/, 'letters, digits, _ . @ and -, at most 100'),
  scopes: z.array(z.enum(SCOPES)).min(1),
  sha256: z.string().regex(/^[0-9a-f]{64}$/, '64 hexadecimal digits in lower case'),
})

export type Credentials = {
  /** Cheap: a token of the file, or a JWT that was verified a moment ago. */
  known(secret: string): Caller | undefined
  /** Dear. Null if it is no good. @throws if the keys cannot be had. */
  verify(secret: string): Promise<Caller | null>
}

/** A withdrawn key counts until a JWT signed with it is forgotten. */
const JWT_MEMORY_MS = 60_000
const JWT_MEMORY_SIZE = 10_000

/** @throws Error that names the file or the setting, and what is wrong with it. */
export async function readCredentials(settings: Settings): Promise<Credentials> {
  const { AUTH_TOKENS_FILE, AUTH_ISSUER: issuer, AUTH_AUDIENCE: audience } = settings
  const tokens = AUTH_TOKENS_FILE === undefined ? new Map<string, Caller>() : await readTokens(AUTH_TOKENS_FILE)
  const keys = await readKeys(settings)
  if (keys && !(issuer && audience)) throw new Error('AUTH_ISSUER and AUTH_AUDIENCE must be set to take JWTs')
  const verified = new Map<string, { caller: Caller; until_ms: number }>()

  function known(secret: string): Caller | undefined {
    const digest = hash('sha256', secret)
    const caller = tokens.get(digest)
    if (caller) return caller
    const jwt = verified.get(digest)
    return jwt && jwt.until_ms > Date.now() ? jwt.caller : undefined
  }

  async function verify(secret: string): Promise<Caller | null> {
    if (!keys || !issuer || !audience || secret.split('.').length !== 3) return null
    try {
      const { payload } = await jwtVerify(secret, keys, {
        issuer,
        audience,
        algorithms: ASYMMETRIC,
        requiredClaims: ['exp', 'sub'],
      })
      const claims = jwtClaims.safeParse(payload)
      if (!claims.success) return null
      const { sub, scope, exp } = claims.data
      const caller = { name: `${issuer}|${sub}`, scopes: new Set(scope.split(' ').filter(isScope)) }
      const [oldest] = verified.keys()
      if (verified.size >= JWT_MEMORY_SIZE && oldest !== undefined) verified.delete(oldest)
      const until_ms = Math.min(exp * 1000, Date.now() + JWT_MEMORY_MS)
      verified.set(hash('sha256', secret), { caller, until_ms })
      return caller
    } catch (error) {
      if (error instanceof errors.JOSEError && REFUSALS.test(error.code)) return null
      throw error
    }
  }

  return { known, verify }
}

const ASYMMETRIC = ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512', 'EdDSA', 'Ed25519']
const jwtClaims = z.object({ sub: z.string().min(1).max(255), scope: z.string().default(''), exp: z.number() })
const isScope = (word: string): word is Scope => SCOPES.some((scope) => scope === word)

/** The JWT is at fault; anything else is the key set's. */
const REFUSALS =
  /^ERR_(JWT_|JWS_|JOSE_ALG_NOT_ALLOWED|JOSE_NOT_SUPPORTED|JWKS_NO_MATCHING_KEY|JWKS_MULTIPLE_MATCHING_KEYS)/

async function readTokens(file: string): Promise<Map<string, Caller>> {
  const records = await readJson('AUTH_TOKENS_FILE', file, z.array(tokenRecord))
  return new Map(records.map(({ name, scopes, sha256 }) => [sha256, { name, scopes: new Set(scopes) }]))
}

async function readKeys({ AUTH_JWKS_URL, AUTH_JWKS_FILE }: Settings): Promise<JWTVerifyGetKey | undefined> {
  // Asked for again after a minute: a key that was withdrawn counts no longer than that, and what was verified with it.
  if (AUTH_JWKS_URL) return createRemoteJWKSet(new URL(AUTH_JWKS_URL), { timeoutDuration: 900, cacheMaxAge: 60_000 })
  if (AUTH_JWKS_FILE === undefined) return undefined
  const jwks = z.object({ keys: z.array(z.looseObject({ kty: z.string() })) })
  return createLocalJWKSet(await readJson('AUTH_JWKS_FILE', AUTH_JWKS_FILE, jwks))
}

async function readJson<Schema extends z.ZodType>(name: string, file: string, schema: Schema) {
  let given: unknown
  try {
    given = JSON.parse(await readFile(file, 'utf8'))
  } catch (error) {
    // A parser's message quotes what it read.
    const fault = error instanceof SyntaxError ? 'it is not JSON' : error instanceof Error ? error.message : error
    throw new Error(`${name}=${file}: ${fault}`)
  }
  const parsed = schema.safeParse(given)
  if (parsed.success) return parsed.data
  const [issue] = parsed.error.issues
  throw new Error(`${name}=${file}: at /${issue?.path.join('/')}: ${issue?.message}`)
}
