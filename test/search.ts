/*
 * A transfer that was accepted is found at any moment, by its id alone: while its job waits, as it is taken up, while it
 * is worked on, and when it is decided.
 */
import test from 'ava'
import { createClient, patiently } from './support/client.ts'
import { backends, until } from './support/harness.ts'
import { holdClaim, openFunded, withService } from './support/part.ts'

/** The moment between waiting and active is short: how often it is tried to hit it. */
const JOBS = 12

for (const backend of backends) {
  test.serial(`${backend}: whoever asks while a worker takes up a job is never told that there is none`, async (t) => {
    await withService(backend, async (service) => {
      const http = createClient(service.url)
      const [source = '', destination = ''] = await openFunded(service, '1000', '0')
      const statuses: number[] = []
      for (let job = 0; job < JOBS; job++) {
        const release = await holdClaim(service, source)
        const { body } = await patiently(() => http.post('/transfers', { source, destination, amount: '1' }))
        let asking = true
        const ask = async () => {
          while (asking) statuses.push((await http.get(`/transfers/${body.id}`)).status)
        }
        const askers = [ask(), ask()]
        const worker = await service.startWorker()
        await until(async () => (await http.get(`/jobs/${body.job}`)).body.state === 'active')
        await release()
        await until(async () => (await http.get(`/transfers/${body.id}?job=${body.job}`)).body.status === 'posted')
        asking = false
        await Promise.all(askers)
        await worker.stop()
      }
      t.is(statuses.filter((status) => status === 404).length, 0, `of ${statuses.length} answers`)
    })
  })
}
