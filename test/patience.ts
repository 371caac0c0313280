/*
 * What the other tests rest on: their client repeats what is safe to repeat where a store was late, and nothing else.
 */
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import test, { type ExecutionContext } from 'ava'
import Koa from 'koa'
import { Problem, type ProblemType, problems } from '../src/api/problem.ts'
import { createClient, patiently } from './support/client.ts'
import { captureLog } from './support/harness.ts'

/** Answers with these problems, one after the other, and with the last of them for ever. */
async function serve(t: ExecutionContext, ...answers: ProblemType[]) {
  let asked = 0
  const app = new Koa().use(problems(captureLog([]))).use(() => {
    const type = answers[Math.min(asked, answers.length - 1)] as ProblemType
    asked += 1
    throw new Problem(type, 'as told')
  })
  const server = app.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, asked: () => asked }
}

const transfer = { source: randomUUID(), destination: randomUUID(), amount: '1' }
const SAFE = [
  ['GET', `/transfers/${randomUUID()}`, {}],
  ['HEAD', `/accounts/${randomUUID()}`, {}],
  ['POST', '/accounts', { body: {} }],
  ['POST', '/transfers', { body: transfer, headers: { 'Idempotency-Key': 'a' } }],
  ['POST', '/transfers/batch', { body: { transfers: [{ key: 'a', ...transfer }] } }],
] as const
const UNSAFE = [
  ['POST', '/transfers', { body: transfer }],
  ['POST', '/transfers/batch', { body: { transfers: [{ key: 'a', ...transfer }, transfer] } }],
] as const

test('what is safe is repeated until a store is in time, and for any other answer no longer', async (t) => {
  for (const [method, path, sent] of SAFE) {
    const { url, asked } = await serve(t, 'unavailable', 'unavailable', 'forbidden', 'unavailable')
    t.is((await createClient(url).call(method, path, sent)).status, 403, path)
    t.is(asked(), 3, path)
  }
})

test('a transfer without a key is not repeated by itself, but by whoever begins anew', async (t) => {
  for (const [method, path, sent] of UNSAFE) {
    const { url, asked } = await serve(t, 'unavailable', 'unavailable', 'forbidden')
    const http = createClient(url)
    await t.throwsAsync(http.call(method, path, sent), { name: 'Unavailable' }, path)
    t.is(asked(), 1, path)
    t.is((await patiently(() => http.call(method, path, sent))).status, 403, path)
    t.is(asked(), 3, path)
  }
})

test('an overload is an answer like any other, and so is everything to a client that is not patient', async (t) => {
  for (const [method, path, sent] of [...SAFE, ...UNSAFE].filter(([method]) => method === 'POST')) {
    const { url, asked } = await serve(t, 'overloaded', 'unavailable')
    t.is((await createClient(url).call(method, path, sent)).body.type, '/problems/overloaded', path)
    t.is(asked(), 1, path)
    const raw = createClient(url, { patient: false })
    t.is((await raw.call(method, path, sent)).body.type, '/problems/unavailable', path)
    t.is(asked(), 2, path)
  }
})

test('a store that stays away fails the test, and says so', async (t) => {
  const { url, asked } = await serve(t, 'unavailable')
  const again = () => createClient(url).get(`/accounts/${randomUUID()}`)
  await t.throwsAsync(patiently(again), { message: /in vain, 20 times: .*\/problems\/unavailable/ })
  t.is(asked(), 20)
})
