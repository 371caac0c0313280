/*
 * More than the service can take on is turned away at once, with 503 and a time to come back; what was accepted stays.
 */
import { randomUUID } from 'node:crypto'
import test from 'ava'
import { createClient } from './support/client.ts'
import { backends, startService, until } from './support/harness.ts'
import { expect503, keyed, recorded } from './support/load.ts'

for (const backend of backends) {
  test.serial(`${backend}: more submissions than fit into memory are turned away at once`, async (t) => {
    const service = await startService({ backend, workers: 0, settings: { SUBMISSION_LIMIT: 10 } })
    t.teardown(service.stop)
    const http = createClient(service.url)
    const accounts = { source: randomUUID(), destination: randomUUID() }
    const submit = (size: number) =>
      http.post('/transfers/batch', {
        transfers: Array.from({ length: size }, (_, number) => ({ ...accounts, amount: '1', key: `${number}` })),
      })
    await expect503(t, () => ({ batch: submit(11) }), 'overloaded')
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
    const submit = () => keyed(http, accounts, `${accepted.length}`)
    const turnedAway = await until(async () => {
      const answer = await submit()
      if (answer.status === 202) accepted.push(String(answer.body.id))
      return answer.status !== 202 && answer
    })
    t.is(turnedAway.status, 503)
    t.is(turnedAway.body.type, '/problems/overloaded')
    t.regex(turnedAway.headers.get('Retry-After') ?? '', /^[1-9]\d*$/)
    // To look is not to submit.
    t.is((await http.get(`/transfers/${accepted[0]}`)).body.status, 'queued')

    await service.startWorker()
    const late = await until(async () => {
      const { status, body } = await submit()
      return status !== 503 && body
    })
    accepted.push(String(late.id))
    await until(async () => (await recorded(service.pool)).length === accepted.length)
    t.deepEqual(await recorded(service.pool), [...accepted].sort())
  })
}
