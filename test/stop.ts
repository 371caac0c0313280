/*
 * Told to stop, API and worker finish what they have in hand, and leave with code 0.
 */
import test from 'ava'
import { transferId } from '../src/transfer.ts'
import { createClient } from './support/client.ts'
import { backends, openPatientQueue, until } from './support/harness.ts'
import {
  countDecided,
  expectDecidedOnce,
  holdClaim,
  openFunded,
  signalUnderLoad,
  startPart,
  withService,
} from './support/part.ts'

for (const backend of backends) {
  test.serial(
    `${backend}: an API told to stop answers whom it has in hand, and everyone it has accepted is served`,
    (t) =>
      withService(backend, async (service) => {
        const [source = '', destination = ''] = await openFunded(service, '1000', '0')
        const api = await startPart('api', service)
        const client = createClient(api.url)
        const submit = (key: string, headers: Record<string, string> = {}) =>
          client.post('/transfers', { source, destination, amount: '1' }, { 'Idempotency-Key': key, ...headers })

        // There is no worker: these would wait for half a minute.
        const keys = Array.from({ length: 30 }, (_, number) => `key ${number}`)
        const held = keys.map((key) => submit(key, { Prefer: 'wait=30' }))
        const looking = keys.map((key) => client.get(`/transfers/${transferId(source, key)}`, { Prefer: 'wait=30' }))
        const looker = createClient(service.url)
        for (const key of keys) {
          await until(async () => (await looker.get(`/transfers/${transferId(source, key)}`)).status === 200)
        }

        api.process.kill('SIGTERM')
        const answers = await Promise.all(held)
        for (const [position, { status, body }] of answers.entries()) {
          t.is(status, 202)
          t.like(body, { id: transferId(source, String(keys[position])), status: 'queued' })
        }
        // Who asked before the transfer was queued was told so at once.
        for (const { status, body } of await Promise.all(looking)) t.true(status === 404 || body.status === 'queued')
        t.is(await api.exited, 0)
        await t.throwsAsync(submit('late'))

        const worker = await startPart('worker', service)
        await expectDecidedOnce(
          t,
          service,
          source,
          keys.map((key) => transferId(source, key)),
        )
        worker.process.kill('SIGTERM')
        t.is(await worker.exited, 0)
      }),
  )

  test.serial(
    `${backend}: an API stopped under load breaks off no answer, and what it did not answer can be repeated`,
    (t) =>
      withService(backend, async (service) => {
        const [source = '', destination = ''] = await openFunded(service, '100000', '0')
        const transfer = { source, destination, amount: '1' }
        const api = await startPart('api', service)
        const { accepted, unanswered, broken, statuses } = await signalUnderLoad(api, transfer, 'SIGTERM')
        t.is(await api.exited, 0)
        t.is(broken, 0)
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

  test.serial(`${backend}: a worker told to stop finishes the jobs it has in hand`, (t) =>
    withService(backend, async (service) => {
      const [held = '', source = '', destination = ''] = await openFunded(service, '1000', '100000', '0')
      const client = createClient(service.url)
      const release = await holdClaim(service, held)
      const transfer = { source: held, destination, amount: '1' }
      const { body } = await client.post('/transfers', transfer, { 'Idempotency-Key': 'held' })
      const queue = await openPatientQueue(service.settings)
      // More than one if an attempt that was answered 503 has got through after all.
      const inHand = (await queue.getJobs(['waiting'])).filter(({ name }) => name === 'post').length
      const worker = await startPart('worker', service)
      await until(async () => (await client.get(`/jobs/${body.job}`)).body.state === 'active')

      // And much more, that it cannot all have in hand.
      const jobs: string[] = []
      const ids: string[] = []
      for (let batch = 0; batch < 60; batch++) {
        const keys = Array.from({ length: 100 }, (_, number) => `${batch}/${number}`)
        const transfers = keys.map((key) => ({ key, source, destination, amount: '1' }))
        const accepted = await client.post('/transfers/batch', { transfers })
        jobs.push(...(accepted.body.jobs ?? []))
        ids.push(...(accepted.body.ids ?? []))
      }
      await until(async () => (await countDecided(service, ids)) > 0)

      worker.process.kill('SIGTERM')
      let left = false
      void worker.exited.then(() => {
        left = true
      })
      // It stops taking jobs, and stays for the one it cannot finish yet.
      const countActive = async () => (await queue.getJobCounts('active')).active
      await until(async () => (await countActive()) === inHand)
      t.false(left)
      t.is((await client.get(`/jobs/${body.job}`)).body.state, 'active')
      t.is(await countDecided(service, [String(body.id)]), 0)
      await release()
      t.is(await worker.exited, 0)
      t.like((await client.get(`/jobs/${body.job}`)).body, { state: 'completed', attempts: 1, posted: 1 })
      t.is(await countActive(), 0)
      await queue.close()

      // What it did not take is there for the next one, each job begun once.
      const next = await startPart('worker', service)
      await expectDecidedOnce(t, service, source, ids)
      for (const job of jobs) {
        await until(async () => (await client.get(`/jobs/${job}`)).body.state === 'completed')
        t.is((await client.get(`/jobs/${job}`)).body.attempts, 1)
      }
      next.process.kill('SIGTERM')
      t.is(await next.exited, 0)
    }),
  )

  test.serial(`${backend}: API and worker stop when their launcher is gone`, (t) =>
    withService(backend, async (service) => {
      const parts = await Promise.all([startPart('api', service), startPart('worker', service)])
      for (const part of parts) part.process.disconnect()
      for (const part of parts) t.is(await part.exited, 0)
    }),
  )
}
