/*
 * The API
 *
 * Routes over what is passed in; holds no state that matters, so any number of processes may serve side by side.
 *
 * Next: transfer.ts, then submission.ts.
 */
import { Router } from '@koa/router'
import Koa from 'koa'
import type { Logger } from 'pino'
import type { DatabasePool } from 'slonik'
import type { TransferQueue } from '../queue.ts'
import { authenticate } from './access.ts'
import { accountRoutes } from './account.ts'
import type { Decisions } from './decision.ts'
import { healthRoutes } from './health.ts'
import { createJobs, jobRoutes } from './job.ts'
import { problems } from './problem.ts'
import type { Submissions } from './submission.ts'
import { transferRoutes } from './transfer.ts'

export function createApp(services: {
  pool: DatabasePool
  queue: TransferQueue
  submissions: Submissions
  decisions: Decisions
  log: Logger
}): Koa {
  const { pool, queue, submissions, decisions, log } = services
  const jobs = createJobs(queue)

  const router = new Router()
  transferRoutes(router, { submissions, decisions, jobs })
  accountRoutes(router, { pool, queue, submissions, decisions, jobs })
  jobRoutes(router, { queue })
  healthRoutes(router, { pool, queue })

  const app = new Koa()
  // A connection that broke under an answer. All else has been through `problems`; without this, koa prints it.
  app.on('error', (error) => log.debug({ cause: String(error) }, 'connection broke'))
  app.use(problems(log))
  app.use(authenticate())
  app.use(router.routes())
  app.use(router.allowedMethods())
  return app
}
