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
import type { Access } from './access.ts'
import { accountRoutes } from './account.ts'
import { readBody } from './body.ts'
import type { Decisions } from './decision.ts'
import { healthRoutes } from './health.ts'
import { createJobs, jobRoutes } from './job.ts'
import { createOwners } from './owner.ts'
import { problems } from './problem.ts'
import { security } from './security.ts'
import type { Submissions } from './submission.ts'
import { transferRoutes } from './transfer.ts'

export function createApp(services: {
  pool: DatabasePool
  queue: TransferQueue
  submissions: Submissions
  decisions: Decisions
  access: Access
  /** Proxies in front whose X-Forwarded-For is believed. */
  proxies: number
  log: Logger
}): Koa {
  const { pool, queue, submissions, decisions, access, proxies, log } = services
  const jobs = createJobs(queue)
  const owners = createOwners(pool)

  const router = new Router()
  transferRoutes(router, { submissions, decisions, jobs, owners })
  accountRoutes(router, { pool, queue, submissions, decisions, jobs, owners })
  jobRoutes(router, { queue })
  healthRoutes(router, { pool, queue })

  const app = new Koa({ proxy: proxies > 0, maxIpsCount: proxies })
  app.use(security())
  app.use(problems(log))
  app.use(access.authenticate)
  app.use(readBody())
  app.use(router.routes())
  app.use(router.allowedMethods())
  return app
}
