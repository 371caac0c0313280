/*
 * Who may do what: every scope against every route, owners, JWTs, limits, and that nothing secret is logged.
 */
import { hash, randomUUID } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { exportJWK, exportSPKI, generateKeyPair, SignJWT, UnsecuredJWT } from 'jose'
import { readSettings } from '../src/settings.ts'
import { createClient } from './support/client.ts'
import { backends, createDatabase, startService, until } from './support/harness.ts'
import { spawnPart } from './support/part.ts'

const SCOPES = ['accounts:write', 'transfers:write', 'read', 'operate'] as const
const ISSUER = 'https://issuer.example'
const AUDIENCE = 'transfer'
const line = (name: string, scopes: readonly string[], token = name) => ({
  name,
  scopes,
  sha256: hash('sha256', token),
})
const bearer = (token: string) => ({ Authorization: `Bearer ${token}` })
const WRITER = ['accounts:write', 'transfers:write', 'read']

const folder = await mkdtemp(join(tmpdir(), 'transfer-access-'))
const tokens = join(folder, 'tokens.json')
const jwks = join(folder, 'jwks.json')
const key = await generateKeyPair('ES256', { extractable: true })
const stranger = await generateKeyPair('ES256')
await writeFile(jwks, JSON.stringify({ keys: [{ ...(await exportJWK(key.publicKey)), kid: 'k', alg: 'ES256' }] }))
await writeFile(
  tokens,
  JSON.stringify([
    ...SCOPES.map((scope) => line(`only-${scope}`.replace(':', '-'), [scope])),
    line('alice', WRITER),
    line('bob', WRITER),
    line('boss', [...WRITER, 'operate']),
  ]),
)
test.after.always(() => rm(folder, { recursive: true }))

const auth = {
  AUTH_TOKENS_FILE: tokens,
  AUTH_JWKS_FILE: jwks,
  AUTH_ISSUER: ISSUER,
  AUTH_AUDIENCE: AUDIENCE,
  ATTEMPT_LIMIT: 1000,
}

for (const backend of backends) {
  test.serial(`${backend}: each route takes its scope and no other`, async (t) => {
    const service = await startService({ backend, workers: 0, settings: auth })
    t.teardown(service.stop)
    const http = createClient(service.url)
    const id = randomUUID()
    const pair = { source: id, destination: randomUUID(), amount: '1' }
    const routes = [
      ['POST', '/accounts', {}, 'accounts:write'],
      ['POST', '/transfers', pair, 'transfers:write'],
      ['POST', '/transfers/batch', { transfers: [pair] }, 'transfers:write'],
      ['GET', `/accounts/${id}`, undefined, 'read'],
      ['GET', `/accounts/${id}/balance`, undefined, 'read'],
      ['GET', `/accounts/${id}/transfers`, undefined, 'read'],
      ['GET', `/transfers/${id}`, undefined, 'read'],
      ['GET', `/jobs/${id}`, undefined, 'read'],
    ] as const
    for (const [method, path, body, needed] of routes) {
      t.is((await http.call(method, path, { body })).status, 401, path)
      for (const scope of SCOPES) {
        const headers = bearer(`only-${scope}`.replace(':', '-'))
        const answer = await http.call(method, path, { body, headers })
        const lacking = answer.status === 403 && /needs a token/.test(answer.body.detail ?? '')
        t.is(lacking, scope !== needed, `${scope} at ${method} ${path}: ${answer.text}`)
      }
    }
    t.is((await http.get('/health')).status, 204)
  })

  test.serial(`${backend}: an account is its owner's to spend from and to read`, async (t) => {
    const service = await startService({ backend, settings: auth })
    t.teardown(service.stop)
    const http = createClient(service.url)
    const open = async (who: string, balance?: string) => {
      const sent = await http.post('/accounts', { balance }, { ...bearer(who), Prefer: 'wait=20' })
      t.is(sent.status, 201, sent.text)
      return sent.body.id ?? ''
    }
    t.is((await http.post('/accounts', { balance: '5' }, bearer('alice'))).status, 403)
    const [rich, alices, bobs] = [await open('boss', '100'), await open('alice'), await open('bob')]
    const pay = (who: string, source: string, destination: string, key: string) =>
      http.post(
        '/transfers',
        { source, destination, amount: '10' },
        { ...bearer(who), 'Idempotency-Key': key, Prefer: 'wait=20' },
      )
    t.is((await pay('boss', rich, alices, 'a')).status, 200)
    const paid = await pay('alice', alices, bobs, 'b')
    t.is(paid.body.status, 'posted', paid.text)
    // A replay tells nothing to others.
    t.is((await pay('bob', alices, bobs, 'b')).status, 403)
    t.is((await pay('alice', alices, bobs, 'b')).headers.get('Idempotent-Replayed'), 'true')

    // The checker of ownership: who gets in where.
    const reads = ['', '/balance', '/transfers'] as const
    for (const [who, account, status] of [
      ['alice', alices, 200],
      ['alice', bobs, 403],
      ['bob', alices, 403],
      ['boss', alices, 200],
      ['alice', randomUUID(), 403],
      ['alice', rich, 403],
    ] as const) {
      for (const path of reads) t.is((await http.get(`/accounts/${account}${path}`, bearer(who))).status, status)
    }
    const batch = { transfers: [alices, bobs].map((source) => ({ key: 'c', source, destination: rich, amount: '1' })) }
    const refused = await http.post('/transfers/batch', batch, bearer('alice'))
    t.is(refused.status, 403)
    t.deepEqual(
      refused.body.errors?.map(({ pointer }) => pointer),
      ['/transfers/1/source'],
    )
    const first = (await pay('boss', rich, alices, 'a')).body.id
    t.is((await http.get(`/transfers/${first}`, bearer('alice'))).status, 200)
    t.is((await http.get(`/transfers/${first}`, bearer('bob'))).status, 404)
    t.is((await http.get(`/transfers/${paid.body.id}`, bearer('bob'))).status, 200)
    // The negative control: the same request at an API that asks nobody who they are gets in.
    const unguarded = await startService({ backend, workers: 0, database: service.databaseUrl })
    t.teardown(unguarded.stop)
    for (const path of reads) {
      t.is((await createClient(unguarded.url).get(`/accounts/${alices}${path}`, bearer('bob'))).status, 200)
    }
    const { rows } = await service.pool.query('SELECT owner FROM ledger.account WHERE id = $1', [alices])
    t.is(rows[0].owner, 'alice')
    await t.throwsAsync(service.pool.query("UPDATE ledger.account SET owner = 'bob'"), { code: '23001' })
  })
}

test.serial('a JWT counts only if everything about it is right, and none is logged', async (t) => {
  const service = await startService({ backend: 'postgres', workers: 0, settings: auth })
  t.teardown(service.stop)
  const http = createClient(service.url)
  const make = (change: { iss?: string; aud?: string; exp?: string | null; kid?: string } = {}) => {
    const jwt = new SignJWT({ scope: 'accounts:write read' })
      .setProtectedHeader({ alg: 'ES256', kid: change.kid ?? 'k' })
      .setSubject('alice')
      .setIssuer(change.iss ?? ISSUER)
      .setAudience(change.aud ?? AUDIENCE)
    return change.exp === null ? jwt : jwt.setExpirationTime(change.exp ?? '1h')
  }
  const good = await make().sign(key.privateKey)
  const opened = await http.post('/accounts', {}, bearer(good))
  t.is(opened.status, 201, opened.text)
  t.is((await http.get(`/accounts/${opened.body.id}`, bearer(good))).status, 200)
  t.is((await http.get(`/accounts/${opened.body.id}`, bearer('alice'))).status, 403) // the token of that name
  const basic = { Authorization: `Basic ${Buffer.from(`x:${good}`).toString('base64')}` }
  t.is((await http.get(`/accounts/${opened.body.id}`, basic)).status, 200)

  const secret = new TextEncoder().encode(await exportSPKI(key.publicKey))
  const claims = { scope: 'read', sub: 'alice', iss: ISSUER, aud: AUDIENCE }
  const bad = {
    issuer: await make({ iss: 'https://other.example' }).sign(key.privateKey),
    audience: await make({ aud: 'other' }).sign(key.privateKey),
    expired: await make({ exp: '-1s' }).sign(key.privateKey),
    endless: await make({ exp: null }).sign(key.privateKey),
    kid: await make({ kid: 'unknown' }).sign(key.privateKey),
    signature: await make().sign(stranger.privateKey),
    none: new UnsecuredJWT(claims).setExpirationTime('1h').encode(),
    hmac: await new SignJWT(claims).setProtectedHeader({ alg: 'HS256', kid: 'k' }).setExpirationTime('1h').sign(secret),
  }
  for (const [what, jwt] of Object.entries(bad)) {
    const answer = await http.get(`/accounts/${opened.body.id}`, bearer(jwt))
    t.is(answer.status, 401, what)
    t.regex(answer.headers.get('WWW-Authenticate') ?? '', /^Bearer/)
  }
  const logged = JSON.stringify(service.log)
  t.true(logged.length > 100)
  for (const jwt of [good, ...Object.values(bad)]) t.false(logged.includes(jwt))
})

test.serial('failed attempts and requests are limited, and every answer has its headers', async (t) => {
  const settings = { ...auth, ATTEMPT_LIMIT: 3, REQUEST_LIMIT: 2 }
  const service = await startService({ backend: 'postgres', workers: 0, settings })
  t.teardown(service.stop)
  const http = createClient(service.url)
  const statuses: number[] = []
  for (let n = 0; n < 5; n++) statuses.push((await http.get('/health', bearer(`guess-${n}`))).status)
  t.deepEqual(statuses, [401, 401, 401, 429, 429])
  const answers = await Promise.all(Array.from({ length: 8 }, () => http.get('/health', bearer('alice'))))
  const over = answers.find(({ status }) => status === 429)
  t.is(over?.headers.get('Retry-After'), '1')
  const ok = answers.find(({ status }) => status === 204)
  t.is(ok?.headers.get('RateLimit-Policy'), '"caller";q=2;w=1')
  t.regex(ok?.headers.get('RateLimit') ?? '', /^"caller";r=\d;t=1$/)
  for (const { headers } of answers) {
    t.regex(headers.get('Content-Security-Policy') ?? '', /default-src 'none'/)
    t.is(headers.get('X-Content-Type-Options'), 'nosniff')
    t.is(headers.get('Cache-Control'), 'no-store')
    t.is(headers.get('Strict-Transport-Security'), null)
  }
})

test.serial(
  'without a token it serves loopback only; a file is reread on SIGHUP, a bad one is not taken',
  async (t) => {
    const { url, drop } = await createDatabase()
    t.teardown(drop)
    const open = spawnPart('api', { DATABASE_URL: url, HOST: '0.0.0.0' })
    t.is(await open.exited, 1)
    t.regex(open.said(), /HOST=0\.0\.0\.0 would let anyone in: set AUTH_TOKENS_FILE/)

    const file = join(folder, 'own.json')
    await writeFile(file, '[{"name":"x"}]')
    const bad = spawnPart('api', { DATABASE_URL: url, AUTH_TOKENS_FILE: file })
    t.is(await bad.exited, 1)
    t.regex(bad.said(), /AUTH_TOKENS_FILE=.*own\.json: at \/0\/scopes/)

    await writeFile(file, JSON.stringify([line('old', ['read'])]))
    // However often the new token is tried before the file is reread.
    const settings = { AUTH_TOKENS_FILE: file, ATTEMPT_LIMIT: '1000' }
    const api = spawnPart('api', { DATABASE_URL: url, ...settings, HOST: '0.0.0.0', LOG_LEVEL: 'trace' })
    const http = createClient((await api.ready).replace('0.0.0.0', '127.0.0.1'))
    const status = async (token: string) => (await http.get('/health', bearer(token))).status
    t.is(await status('old'), 204)
    await writeFile(file, JSON.stringify([line('new', ['read'], 'new-secret-token')]))
    api.process.kill('SIGHUP')
    await until(async () => (await status('new-secret-token')) === 204, { interval_ms: 200 })
    t.is(await status('old'), 401)
    await writeFile(file, 'no JSON')
    api.process.kill('SIGHUP')
    await until(() => /stay as they were/.test(api.said()))
    t.is(await status('new-secret-token'), 204)
    api.process.kill('SIGTERM')
    await api.exited
    t.false(api.said().includes('new-secret-token'))
    const error = t.throws(() => readSettings({ DATABASE_URL: 'mysql://me:hidden@host/x' }))
    t.false(error?.message.includes('hidden'))
  },
)
