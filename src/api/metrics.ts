/*
 * Metrics over HTTP, and what is counted and logged of every request.
 */
import type { Router } from '@koa/router'
import type { Context, Middleware, Next } from 'koa'
import type { Logger } from 'pino'
import { type ApiMetrics, METRICS_TYPE, scrape } from '../metrics.ts'
import { demand } from './access.ts'

/** @param workers where the workers known to this API serve their metrics. */
export function metricsRoutes(router: Router, metrics: ApiMetrics, workers: readonly string[]): void {
  router.get('/metrics', async (ctx) => {
    demand(ctx, 'read')
    ctx.body = await scrape(metrics, workers)
    ctx.type = METRICS_TYPE
  })
}

/**
 * Counts each request by the template of its route, so that no id becomes a label; at debug level it logs each. Goes
 * first: what is answered is known only when all others are done.
 */
export function observe({ requests }: ApiMetrics, log: Logger): Middleware {
  // prom-client sorts, joins and looks up the labels at each observation that brings them.
  const known = new Map<string, ReturnType<typeof requests.labels>>()
  function durationsOf(method: string, route: string, status: string) {
    const key = `${method} ${route} ${status}`
    const durations = known.get(key) ?? requests.labels({ method, route, status })
    known.set(key, durations)
    return durations
  }

  return async (ctx: Context, next: Next) => {
    const began = performance.now()
    await next()
    const duration_ms = performance.now() - began
    const { method, status } = ctx
    const route = routeOf(ctx)
    durationsOf(method, route, STATUS_CLASSES[Math.floor(status / 100)] ?? 'other').observe(duration_ms / 1000)
    if (log.isLevelEnabled('debug')) {
      log.debug({ request_id: ctx.state.request_id, method, route, status, duration_ms }, 'request')
    }
  }
}

const STATUS_CLASSES = ['other', '1xx', '2xx', '3xx', '4xx', '5xx']

/** What no route answered has a template all the same, or anyone could make up a label a request. */
function routeOf(ctx: Context): string {
  return ctx._matchedRoute === undefined ? (ctx.state.route ?? 'none') : String(ctx._matchedRoute)
}
