/*
 * Health: whether the process is alive, and whether what it needs is there.
 */
import type { Router } from '@koa/router'
import { type DatabasePool, sql } from 'slonik'
import { z } from 'zod'
import type { TransferQueue } from '../queue.ts'
import { answer } from './answer.ts'
import { refuseQuery } from './header.ts'
import { Problem, reach } from './problem.ts'

export function healthRoutes(router: Router, { pool, queue }: { pool: DatabasePool; queue: TransferQueue }): void {
  router.get('/health', (ctx) => {
    refuseQuery(ctx)
    ctx.status = 204
  })

  router.get('/health/ready', async (ctx) => {
    refuseQuery(ctx)
    const probes = {
      database: reach('database', pool.oneFirst(sql.type(z.object({ one: z.number() }))`SELECT 1 AS one`)),
      queue: reach('queue', queue.getJobCounts('waiting')),
    }
    const answers = await Promise.allSettled(Object.values(probes))
    const down = Object.keys(probes).filter((_, position) => answers[position]?.status === 'rejected')
    if (down.length > 0) throw new Problem('unavailable', `not reachable: ${down.join(', ')}`, { down })
    answer(ctx, 200, { status: 'ready', database: 'up', queue: 'up' })
  })
}
