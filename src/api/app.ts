/*
 * The API
 *
 * Routes over what is passed in; holds no state that matters, so any number of processes may serve side by side.
 *
 * Next: transfer.ts, then submission.ts.
 */
import Koa, { type Context } from 'koa'
import type { Logger } from 'pino'
import type { DatabasePool } from 'slonik'
import { Router } from '../lean.ts'
import type { ApiMetrics } from '../metrics.ts'
import type { TransferQueue } from '../queue.ts'
import type { Tracing } from '../trace.ts'
import type { Access } from './access.ts'
import { accountRoutes } from './account.ts'
import { consoleRoutes } from './console.ts'
import { dashboard } from './dashboard.ts'
import type { Decisions } from './decision.ts'
import { docsRoutes } from './docs.ts'
import { healthRoutes } from './health.ts'
import { createJobs, jobRoutes } from './job.ts'
import { type Live, liveRoutes } from './live.ts'
import { metricsRoutes, observe } from './metrics.ts'
import { createOwners } from './owner.ts'
import { problems } from './problem.ts'
import type { Submissions } from './submission.ts'
import { transferRoutes } from './transfer.ts'

export function createApp(services: {
  pool: DatabasePool
  queue: TransferQueue
  submissions: Submissions
  decisions: Decisions
  live: Live
  access: Access
  /** Proxies in front whose X-Forwarded-For is believed. */
  proxies: number
  metrics: ApiMetrics
  /** Where workers serve theirs. */
  workers: readonly string[]
  tracing: Tracing | undefined
  log: Logger
}): Koa {
  const { pool, queue, submissions, decisions, live, access, proxies, metrics, workers, tracing, log } = services
  const jobs = createJobs(queue)
  const owners = createOwners(pool)

  // A router tries all its routes on every request: those that carry the load are tried first, and by themselves.
  const [submitting, transfers, accounts, others] = [new Router(), new Router(), new Router(), new Router()]
  transferRoutes(submitting, transfers, { submissions, decisions, jobs, owners, metrics })
  accountRoutes(accounts, { pool, queue, submissions, decisions, jobs, owners })
  jobRoutes(others, { queue })
  healthRoutes(others, { pool, queue })
  docsRoutes(others)
  metricsRoutes(others, metrics, workers)
  liveRoutes(others, { live })
  consoleRoutes(others)

  const app = new App({ proxy: proxies > 0, maxIpsCount: proxies })
  // A connection that broke under an answer. All else has been through `problems`; without this, koa prints it.
  app.on('error', (error) => log.debug({ cause: String(error) }, 'connection broke'))
  app.use(observe(metrics, log))
  if (tracing) app.use(tracing.serve)
  app.use(problems(log))
  app.use(access.authenticate)
  for (const router of [submitting, transfers, accounts, others]) app.use(router.routes())
  app.use(dashboard(queue))
  app.use(others.allowedMethods())
  return app
}

type Handle = (ctx: Context, middleware: (ctx: Context) => Promise<void>) => Promise<void>

/** In no type, but a method of its own; there is no other way to leave out what it does. */
const handleRequest: Handle = Reflect.get(Koa.prototype, 'handleRequest')

/**
 * Koa waits for the end of every response, to end what it may still be writing: a tenth of what a request leaves for the
 * collector. An answer that is written in one piece (answer.ts) has no such end; all else goes Koa's way.
 */
class App extends Koa {
  async handleRequest(...[ctx, middleware]: Parameters<Handle>): Promise<void> {
    const { res } = ctx
    res.statusCode = 404
    try {
      await middleware(ctx)
    } catch (error) {
      return ctx.onerror(error as Error)
    }
    if (ctx.respond === false) return
    const { statusCode } = res
    await handleRequest.call(this, ctx, async () => {
      res.statusCode = statusCode
    })
  }
}
