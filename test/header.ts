/*
 * Browsers are told what they must not do with an answer, whatever the answer is.
 */
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import test from 'ava'
import { createClient } from './support/client.ts'
import { startService } from './support/harness.ts'
import { startProxy } from './support/proxy.ts'

test('security headers are on what is found, what is not, and what cannot be had; the control has none', async (t) => {
  const service = await startService({ backend: 'postgres', workers: 0 })
  t.teardown(service.stop)
  const proxy = await startProxy(service.databaseUrl)
  const settings = { DATABASE_URL: proxy.url }
  const cut = await startService({ backend: 'postgres', workers: 0, database: service.databaseUrl, settings })
  t.teardown(async () => {
    await proxy.restore()
    await cut.stop()
    await proxy.close()
  })
  const wanted = {
    'Content-Security-Policy': /default-src 'none';frame-ancestors 'none'/,
    'X-Content-Type-Options': /^nosniff$/,
    'Cross-Origin-Resource-Policy': /^same-origin$/,
    'Cache-Control': /^no-store$/,
  }
  const lacking = async (asked: Promise<{ status: number; headers: Headers }>, expected: number) => {
    const { status, headers } = await asked
    t.is(status, expected)
    for (const name of ['X-Powered-By', 'Server', 'Strict-Transport-Security']) t.is(headers.get(name), null)
    return Object.entries(wanted).flatMap(([name, value]) => (value.test(headers.get(name) ?? '') ? [] : [name]))
  }
  const http = createClient(cut.url)
  const id = await http.open()
  t.deepEqual(await lacking(http.get(`/accounts/${id}`), 200), [])
  t.deepEqual(await lacking(http.get(`/accounts/${randomUUID()}`), 404), [])
  await proxy.refuse()
  t.deepEqual(await lacking(createClient(cut.url, { patient: false }).get(`/accounts/${id}`), 503), [])
  const bare = createServer((_request, response) => void response.end()).listen(0, '127.0.0.1')
  t.teardown(() => bare.close())
  await once(bare, 'listening')
  const { port } = bare.address() as AddressInfo
  t.deepEqual(await lacking(fetch(`http://127.0.0.1:${port}`), 200), Object.keys(wanted))
})
