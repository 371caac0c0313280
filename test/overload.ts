/*
 * More than the service can take on is turned away at once, with 503 and a time to come back; what was accepted stays.
 */
import { randomUUID } from 'node:crypto'
import test from 'ava'
import { createClient } from './support/client.ts'
import { backends, startService, until } from './support/harness.ts'
import { MARGIN_MS, PROMISED_MS, recorded, timed } from './support/load.ts'

for (const backend of backends) {
  test.serial(`${backend}: more submissions than fit into memory are turned away at once`, async (t) => {
    const service = await startService({ backend, workers: 0, settings: { SUBMISSION_LIMIT: 10 } })
    t.teardown(service.stop)
    const http = createClient(service.url)
    const accounts = { source: randomUUID(), destination: randomUUID() }
    const submit = (size: number) =>
      timed(
        http.post('/transfers/batch', {
          transfers: Array.from({ length: size }, () => ({ ...accounts, amount: '1' })),
        }),
      )
    const { status, headers, body, took_ms } = await submit(11)
    t.is(status, 503)
    t.is(body.type, '/problems/overloaded')
    t.regex(headers.get('Retry-After') ?? '', /^[1-9]\d*$/)
    t.true(took_ms < PROMISED_MS + MARGIN_MS)
    t.is((await submit(10)).status, 202)
    await service.startWorker()
    await until(async () => (await recorded(service.pool)).length === 10)
  })

  test.serial(`${backend}: a queue that is too deep turns submissions away until it is worked off`, async (t) => {
    const service = await startService({ backend, workers: 0, settings: { QUEUE_LIMIT: 3 } })
    t.teardown(service.stop)
    const http = createClient(service.url)
    const accounts = { source: randomUUID(), destination: randomUUID() }
    const accepted: string[] = []
    const turnedAway = await until(async () => {
      const answer = await timed(http.post('/transfers', { ...accounts, amount: '1' }))
      if (answer.status === 202) accepted.push(String(answer.body.id))
      return answer.status !== 202 && answer
    })
    t.is(turnedAway.status, 503)
    t.is(turnedAway.body.type, '/problems/overloaded')
    t.regex(turnedAway.headers.get('Retry-After') ?? '', /^[1-9]\d*$/)
    t.true(turnedAway.took_ms < PROMISED_MS + MARGIN_MS)
    // To look is not to submit.
    t.is((await http.get(`/transfers/${accepted[0]}`)).body.status, 'queued')

    await service.startWorker()
    const late = await until(async () => {
      const { status, body } = await http.post('/transfers', { ...accounts, amount: '1' })
      return status === 202 && body
    })
    accepted.push(String(late.id))
    await until(async () => (await recorded(service.pool)).length === accepted.length)
    t.deepEqual(await recorded(service.pool), [...accepted].sort())
  })
}
