/*
 * The API process
 */
import { once } from 'node:events'
import type { AddressInfo, Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import { refuseOtherCluster } from '../db/closing.ts'
import { refuseOtherVersion } from '../db/migrate.ts'
import { openPool, untilReached } from '../db/pool.ts'
import { createLog } from '../log.ts'
import { createApiMetrics, watchPool, watchStores } from '../metrics.ts'
import { runUntilStopped } from '../process.ts'
import { keepTidy, openQueue, scheduleSweep, warnOfLoss } from '../queue.ts'
import { readSettings, type Settings } from '../settings.ts'
import { startTracing } from '../trace.ts'
import { createAccess } from './access.ts'
import { createApp } from './app.ts'
import { createDecisions } from './decision.ts'
import { createLive } from './live.ts'
import { createHttpServer } from './server.ts'
import { createSubmissions } from './submission.ts'

/** Serves until stopped. @returns where, and how to stop: requests in hand are answered first. */
export async function startApi(settings: Settings, log: Logger): Promise<{ url: string; stop: () => Promise<void> }> {
  if (!settings.DATABASE_URL) throw new Error('DATABASE_URL is not set (npm start brings its own database)')
  const access = await createAccess(settings, log)

  const tracing = await startTracing(settings, 'api')
  const pool = await openPool({
    databaseUrl: settings.DATABASE_URL,
    connections: settings.DATABASE_POOL,
    timeout_ms: 900,
    log,
    tracing: tracing !== undefined,
  })
  await untilReached(log, () => refuseOtherVersion(pool))
  await untilReached(log, () => refuseOtherCluster(pool))
  const queue = await openQueue(settings, tracing?.telemetry)
  queue.on('error', (error) => log.warn({ error: String(error) }, 'queue'))
  await warnOfLoss(settings, log)

  // The first requests shall not meet a connection that is still being made; a queue that is down keeps nobody waiting.
  for (let attempt = 1; attempt <= 20; attempt++) {
    if (await queue.getJobCounts('waiting').then(Boolean, () => false)) break
    await sleep(100)
  }
  void scheduleSweep(queue)
  const stopTidying = keepTidy(queue, settings)

  const metrics = createApiMetrics()
  watchPool(metrics, pool, settings.DATABASE_POOL)
  watchStores(metrics, { pool, queue })

  const submissions = createSubmissions({
    queue,
    batchSize: settings.BATCH_SIZE,
    submissionLimit: settings.SUBMISSION_LIMIT,
    queueLimit: settings.QUEUE_LIMIT,
    metrics,
    tracing,
    log,
  })
  const decisions = createDecisions(pool)
  const live = createLive({ pool, databaseUrl: settings.DATABASE_URL, queue, metrics })
  const app = createApp({
    pool,
    queue,
    submissions,
    decisions,
    live,
    access,
    proxies: settings.TRUST_PROXY,
    metrics,
    workers: settings.WORKER_METRICS ?? [],
    tracing,
    log,
  })
  const server = createHttpServer(app.callback(), settings.CONNECTION_LIMIT, log)
  const sockets = new Set<Socket>()
  server.on('connection', (socket) => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
  })
  // Whoever finds the backlog full tries again after one, three, seven seconds: let it be as long as the system allows.
  server.listen({ port: settings.PORT, host: settings.HOST, backlog: 65_535 })
  await once(server, 'listening')
  const { address, port, family } = server.address() as AddressInfo
  const url = `http://${family === 'IPv6' ? `[${address}]` : address}:${port}`
  process.on('SIGHUP', access.reload)
  log.info({ url }, 'listening')

  return {
    url,
    stop: async () => {
      process.off('SIGHUP', access.reload)
      // What was accepted is answered, who waits is told what there is, and nobody is kept on an open connection.
      server.prependListener('request', (_request, response) => {
        response.shouldKeepAlive = false
      })
      server.close()
      decisions.release()
      live.release()
      // Node closes a connection that was busy just now only when told again.
      const again = setInterval(() => {
        server.closeIdleConnections()
        // To Node, a connection on which nothing was ever asked is busy. Browsers open such in advance.
        for (const socket of sockets) if (socket.bytesRead === 0) socket.destroy()
      }, 50)
      await once(server, 'close')
      clearInterval(again)
      submissions.close()
      stopTidying()
      await queue.close()
      await pool.end()
      await tracing?.stop()
    },
  }
}

if (import.meta.main) {
  await runUntilStopped(() => {
    const settings = readSettings()
    return startApi(settings, createLog(settings.LOG_LEVEL, 'api'))
  })
}
