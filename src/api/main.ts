/*
 * The API process
 */
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import { refuseOtherCluster } from '../db/closing.ts'
import { refuseOtherVersion } from '../db/migrate.ts'
import { openPool } from '../db/pool.ts'
import { createLog } from '../log.ts'
import { runUntilStopped } from '../process.ts'
import { keepTidy, openQueue, scheduleSweep, warnOfLoss } from '../queue.ts'
import { readSettings, type Settings } from '../settings.ts'
import { createApp } from './app.ts'
import { createDecisions } from './decision.ts'
import { createHttpServer } from './server.ts'
import { createSubmissions } from './submission.ts'

/** Serves until stopped. @returns where, and how to stop: requests in hand are answered first. */
export async function startApi(settings: Settings, log: Logger): Promise<{ url: string; stop: () => Promise<void> }> {
  if (!settings.DATABASE_URL) throw new Error('DATABASE_URL is not set (npm start brings its own database)')

  const pool = await openPool({
    databaseUrl: settings.DATABASE_URL,
    connections: settings.DATABASE_POOL,
    timeout_ms: 900,
    log,
  })
  await refuseOtherVersion(pool)
  await refuseOtherCluster(pool)
  const queue = await openQueue(settings)
  queue.on('error', (error) => log.warn({ error: String(error) }, 'queue'))
  await warnOfLoss(settings, log)

  // The first requests shall not meet a connection that is still being made; a queue that is down keeps nobody waiting.
  for (let attempt = 1; attempt <= 20; attempt++) {
    if (await queue.getJobCounts('waiting').then(Boolean, () => false)) break
    await sleep(100)
  }
  void scheduleSweep(queue)
  const stopTidying = keepTidy(queue, settings)

  const submissions = createSubmissions({
    queue,
    batchSize: settings.BATCH_SIZE,
    submissionLimit: settings.SUBMISSION_LIMIT,
    queueLimit: settings.QUEUE_LIMIT,
  })
  const decisions = createDecisions(pool)
  const app = createApp({ pool, queue, submissions, decisions, log })
  const server = createHttpServer(app.callback(), settings.CONNECTION_LIMIT, log)
  server.listen(settings.PORT, settings.HOST)
  await once(server, 'listening')
  const { address, port, family } = server.address() as AddressInfo
  const url = `http://${family === 'IPv6' ? `[${address}]` : address}:${port}`
  log.info({ url }, 'listening')

  return {
    url,
    stop: async () => {
      // What was accepted is answered, who waits is told what there is, and nobody is kept on an open connection.
      server.prependListener('request', (_request, response) => {
        response.shouldKeepAlive = false
      })
      server.close()
      decisions.release()
      // Node closes a connection that was busy just now only when told again.
      const again = setInterval(() => server.closeIdleConnections(), 50)
      await once(server, 'close')
      clearInterval(again)
      submissions.close()
      stopTidying()
      await queue.close()
      await pool.end()
    },
  }
}

if (import.meta.main) {
  await runUntilStopped(() => {
    const settings = readSettings()
    return startApi(settings, createLog(settings.LOG_LEVEL, 'api'))
  })
}
