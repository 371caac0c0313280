/*
 * Killed without warning, API and worker are missed by nobody: what was accepted is in the queue, what was decided
 * stands, and what a worker had in hand is taken over.
 */
import test from 'ava'
import { transferId } from '../src/transfer.ts'
import { createClient, type Job } from './support/client.ts'
import { backends, until } from './support/harness.ts'
import { MARGIN } from './support/load.ts'
import {
  countDecided,
  expectDecidedOnce,
  holdClaim,
  openFunded,
  signalUnderLoad,
  startPart,
  withService,
} from './support/part.ts'

const TAKE_OVER_LIMIT_MS = 10_000

for (const backend of backends) {
  test.serial(`${backend}: an API killed under load has lost nothing of what it accepted`, (t) =>
    withService(backend, async (service) => {
      const [source = '', destination = ''] = await openFunded(service, '100000', '0')
      const transfer = { source, destination, amount: '1' }
      const api = await startPart('api', service)
      const { accepted, unanswered, statuses } = await signalUnderLoad(api, transfer, 'SIGKILL')
      t.is(await api.exited, 'SIGKILL')
      t.deepEqual(statuses, [202])

      const other = createClient(service.url)
      for (const key of unanswered) {
        t.is((await other.post('/transfers', transfer, { 'Idempotency-Key': key })).status, 202)
      }
      await service.startWorker()
      const ids = [...accepted, ...unanswered].map((key) => transferId(source, key))
      await expectDecidedOnce(t, service, source, ids)
    }),
  )

  test.serial(`${backend}: the jobs of a worker that is killed are taken over within 10 s`, (t) =>
    withService(backend, async (service) => {
      const [held = '', source = '', destination = ''] = await openFunded(service, '1000', '1000', '0')
      const client = createClient(service.url)
      const release = await holdClaim(service, held)
      const submit = (batch: number) => {
        const keys = Array.from({ length: 20 }, (_, number) => `${batch}/${number}`)
        const transfers = [held, source].flatMap((from) =>
          keys.map((key) => ({ key, source: from, destination, amount: '1' })),
        )
        return client.post('/transfers/batch', { transfers })
      }
      const batches = await Promise.all([1, 2, 3, 4, 5].map(submit))
      const ids = batches.flatMap(({ body }) => body.ids ?? [])
      const jobs = new Set(batches.flatMap(({ body }) => body.jobs ?? []))
      const worker = await startPart('worker', service)
      for (const job of jobs) await until(async () => (await client.get(`/jobs/${job}`)).body.state === 'active')
      // One half of every job is decided by then, the other cannot be.
      await until(async () => (await countDecided(service, ids)) === 100)
      const other = await startPart('worker', service)

      worker.process.kill('SIGKILL')
      const killed_ms = performance.now()
      t.is(await worker.exited, 'SIGKILL')
      await release()
      await until(async () => (await countDecided(service, ids)) === 200)
      const took_ms = performance.now() - killed_ms
      t.log(`taken over after ${Math.round(took_ms)} ms`)
      t.true(took_ms < TAKE_OVER_LIMIT_MS * MARGIN, `took ${took_ms} ms`)
      // What the killed one had decided stands, and is counted.
      for (const job of jobs) {
        const done = await until(async () => {
          const { body } = await client.get<Job>(`/jobs/${job}`)
          return body.state === 'completed' && body
        })
        t.is(done.posted, done.transfers)
      }
      t.is((await client.get(`/accounts/${destination}/balance`)).body.balance, '200')
      other.process.kill('SIGTERM')
      t.is(await other.exited, 0)
    }),
  )
}
