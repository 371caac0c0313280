/*
 * The keys that JWTs are checked with come from a key server, which may be away, and which changes them.
 */
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import test from 'ava'
import { exportJWK, generateKeyPair, SignJWT } from 'jose'
import { createClient } from './support/client.ts'
import { startService, until } from './support/harness.ts'

test('keys come from a key server: 503 while it is away, and a new key counts without a restart', async (t) => {
  t.timeout(120_000)
  const [first, second] = [await generateKeyPair('ES256'), await generateKeyPair('ES256')]
  const publish = async (kid: string, { publicKey }: typeof first) => {
    const keys = [{ ...(await exportJWK(publicKey)), kid, alg: 'ES256' }]
    return (response: ServerResponse) => void response.end(JSON.stringify({ keys }))
  }
  const fails = (response: ServerResponse) => void response.writeHead(500).end()
  const hangs = () => {}
  const breaks = (response: ServerResponse) => void response.destroy()
  let answer: (response: ServerResponse) => void = fails
  const server = createServer((_request, response) => answer(response)).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.close()
    server.closeAllConnections()
  })
  const auth = { AUTH_ISSUER: 'https://issuer.example', AUTH_AUDIENCE: 'transfer', ATTEMPT_LIMIT: 10_000 }
  const AUTH_JWKS_URL = `http://127.0.0.1:${(server.address() as AddressInfo).port}/keys`
  const service = await startService({ backend: 'postgres', workers: 0, settings: { ...auth, AUTH_JWKS_URL } })
  t.teardown(service.stop)
  // Each is another one, so none is remembered.
  const call = async (kid: string, { privateKey }: typeof first, patient = true) => {
    const jwt = new SignJWT({ scope: 'accounts:write' }).setProtectedHeader({ alg: 'ES256', kid }).setJti(randomUUID())
    const claimed = jwt.setSubject('alice').setIssuer(auth.AUTH_ISSUER).setAudience(auth.AUTH_AUDIENCE)
    const token = await claimed.setExpirationTime('1h').sign(privateKey)
    return await createClient(service.url, { patient }).post('/accounts', {}, { Authorization: `Bearer ${token}` })
  }
  for (answer of [fails, hangs, breaks]) {
    const { status, headers } = await call('one', first, false)
    t.deepEqual([status, headers.get('Retry-After')], [503, '1'])
  }
  answer = await publish('one', first)
  t.is((await call('one', first)).status, 201)
  t.is((await call('one', second)).status, 401)
  answer = fails
  t.is((await call('one', first)).status, 201)
  // Rotated. An unknown key is asked for every 30 s at most, so strangers cannot make the service ask without end.
  answer = await publish('two', second)
  t.is((await call('two', second)).status, 401)
  await until(async () => (await call('two', second)).status === 201, { interval_ms: 500 })
  t.is((await call('one', first)).status, 401)
})
