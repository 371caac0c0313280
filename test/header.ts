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
  const lacking = async (url: string, id: string, status: number) => {
    const answer = await fetch(`${url}/accounts/${id}`)
    const { headers } = answer
    t.is(answer.status, status)
    for (const name of ['X-Powered-By', 'Server', 'Strict-Transport-Security']) t.is(headers.get(name), null)
    return Object.entries(wanted).flatMap(([name, value]) => (value.test(headers.get(name) ?? '') ? [] : [name]))
  }
  const id = await createClient(cut.url).open()
  t.deepEqual(await lacking(cut.url, id, 200), [])
  t.deepEqual(await lacking(cut.url, randomUUID(), 404), [])
  await proxy.refuse()
  t.deepEqual(await lacking(cut.url, id, 503), [])
  const bare = createServer((_request, response) => void response.end()).listen(0, '127.0.0.1')
  t.teardown(() => bare.close())
  await once(bare, 'listening')
  t.deepEqual(await lacking(`http://127.0.0.1:${(bare.address() as AddressInfo).port}`, id, 200), Object.keys(wanted))
})
