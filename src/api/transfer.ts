/*
 * Transfers over HTTP
 *
 * Submit one, submit many, ask what became of one.
 */
import type { Router } from '@koa/router'
import type { Context } from 'koa'
import { z } from 'zod'
import type { ApiMetrics } from '../metrics.ts'
import {
  batchRequest,
  differences,
  drawId,
  idempotencyKey,
  type Transfer,
  transferId,
  transferRequest,
  uuid,
} from '../transfer.ts'
import { type Caller, demand } from './access.ts'
import { answer } from './answer.ts'
import { readBody } from './body.ts'
import type { Decisions } from './decision.ts'
import { applied, readId, readKey, readQuery, readWait, refuseQuery } from './header.ts'
import type { Jobs } from './job.ts'
import type { Owners } from './owner.ts'
import { Problem, parse } from './problem.ts'
import type { Submissions } from './submission.ts'

export type TransferServices = {
  submissions: Submissions
  decisions: Decisions
  jobs: Jobs
  owners: Owners
  metrics: ApiMetrics
}

/** @param submitting for the one route that carries most of the load. */
export function transferRoutes(
  submitting: Router,
  router: Router,
  { submissions, decisions, jobs, owners, metrics }: TransferServices,
): void {
  submitting.post('/transfers', async (ctx) => {
    const caller = demand(ctx, 'transfers:write')
    refuseQuery(ctx)
    const key = readKey(ctx)
    const wait = readWait(ctx)
    submissions.admit()
    const asked = parse(transferRequest, await readBody(ctx))
    // Before the key is looked at: what others decided under theirs is not to be learned.
    if (!caller.scopes.has('operate')) await owners.demand(caller, asked.source)
    const transfer = identify(asked, key)

    if (key !== undefined) {
      const first = await decisions.read(transfer.id)
      if (first) {
        refuseReuse([{ asked: transfer, first }])
        metrics.replayed.inc()
        return answer(ctx, 200, first, ['Idempotent-Replayed', 'true'])
      }
    }

    const job = await submissions.submit([transfer], ctx.state.request_id)
    const decision = wait > 0 ? await decisions.wait(transfer.id, wait) : null
    // Somebody may have used the key a moment ago: then theirs is the transfer that was decided.
    if (decision) refuseReuse([{ asked: transfer, first: decision }])
    const location = ['Location', `/transfers/${transfer.id}?job=${job}`]
    if (decision) {
      applied(ctx, wait)
      answer(ctx, 200, decision, location)
    } else answer(ctx, 202, { ...transfer, status: 'queued', job }, location)
  })

  router.post('/transfers/batch', async (ctx) => {
    const caller = demand(ctx, 'transfers:write')
    refuseQuery(ctx)
    submissions.admit()
    const { transfers: items } = parse(batchRequest, await readBody(ctx))
    if (!caller.scopes.has('operate')) {
      const allowed = await Promise.all(items.map(({ source }) => owners.allow(caller, source)))
      const errors = items.flatMap(({ source }, position) =>
        allowed[position]
          ? []
          : [{ pointer: `/transfers/${position}/source`, detail: `account ${source} is not the caller's` }],
      )
      if (errors[0]) throw new Problem('forbidden', `${errors[0].pointer}: ${errors[0].detail}`, { errors })
    }
    const transfers = items.map((item) => identify(item, item.key))

    // One key, one transfer: within this request, and against what was decided before.
    const keyed = transfers
      .map((asked, position) => ({ asked, position }))
      .filter(({ position }) => items[position]?.key !== undefined)
    const decided = await Promise.all(keyed.map(({ asked }) => decisions.read(asked.id)))
    const firsts = new Map<string, Transfer>()
    for (const [at, { asked }] of keyed.entries()) {
      if (!firsts.has(asked.id)) firsts.set(asked.id, decided[at] ?? asked)
    }
    refuseReuse(keyed.map(({ asked, position }) => ({ asked, first: firsts.get(asked.id) ?? asked, position })))

    const done = new Set(decided.flatMap((decision) => (decision ? [decision.id] : [])))
    const open = transfers.filter((transfer) => !done.has(transfer.id))
    metrics.replayed.inc(transfers.length - open.length)
    const job = open.length > 0 ? await submissions.submit(open, ctx.state.request_id) : null
    answer(ctx, 202, { ids: transfers.map((transfer) => transfer.id), jobs: job === null ? [] : [job] })
  })

  // Or it would be taken for the id of a transfer.
  router.all('/transfers/batch', (ctx) => {
    ctx.set('Allow', 'POST')
    ctx.status = ctx.method === 'OPTIONS' ? 200 : 405
  })

  router.get('/transfers', async (ctx) => {
    const caller = demand(ctx, 'read')
    const { source, key, job } = readQuery(ctx, keyQuery)
    await tell(ctx, caller, transferId(source, key), job)
  })

  router.get('/transfers/:id', async (ctx) => {
    const caller = demand(ctx, 'read')
    const id = readId(ctx, 'transfer')
    const { job } = readQuery(ctx, transferQuery)
    await tell(ctx, caller, id, job)
  })

  /** What became of a transfer. @param hint the job that carries it, if the client knows. */
  async function tell(ctx: Context, caller: Caller, id: string, hint: string | undefined): Promise<void> {
    const wait = readWait(ctx)

    // Another's transfer is answered like one that is not there.
    const mine = async ({ source, destination }: Transfer) =>
      (await owners.allow(caller, source)) || (await owners.allow(caller, destination))

    const decision = await decisions.read(id)
    if (decision && (await mine(decision))) {
      applied(ctx, wait)
      return answer(ctx, 200, decision)
    }
    const found = decision ? null : await jobs.find(id, hint)
    const queued = found && (await mine(found.transfer)) ? found : null
    // Between the two looks the job may have ended: then the decision is there by now.
    const last = queued && wait > 0 ? await decisions.wait(id, wait) : queued ? null : await decisions.read(id)
    const late = last && (await mine(last)) ? last : null
    if (!queued && !late) {
      throw new Problem(
        'transfer-not-found',
        'it is neither decided nor in the queue. Submitting it again with the same Idempotency-Key is safe',
      )
    }
    if (late) {
      applied(ctx, wait)
      answer(ctx, 200, late)
    } else if (queued) answer(ctx, 200, { ...queued.transfer, status: 'queued', job: queued.job })
  }
}

/** Field by field: with a rest or a spread, each takes 1 KB and is slow to read from then on. */
function identify({ source, destination, amount }: Omit<Transfer, 'id'>, key: string | undefined): Transfer {
  return { id: key === undefined ? drawId() : transferId(source, key), source, destination, amount }
}

export const keyQuery = z.strictObject({ source: uuid, key: idempotencyKey, job: uuid.optional() })

/** The job that carries the transfer makes the look-up of a queued one quick. */
export const transferQuery = z.strictObject({ job: uuid.optional() })

/** @throws Problem key-reused that names the fields, and in a batch the positions. */
function refuseReuse(pairs: { asked: Transfer; first: Transfer; position?: number }[]): void {
  const errors = pairs.flatMap(({ asked, first, position }) => {
    const fields = differences(asked, first)
    if (fields.length === 0) return []
    return [{ ...(position === undefined ? {} : { pointer: `/transfers/${position}` }), id: asked.id, fields }]
  })
  const [error] = errors
  if (!error) return
  const where = 'pointer' in error ? `${error.pointer}: ` : ''
  const detail = `${where}its key was first used with another ${error.fields.join(' and ')}. Use a new key for a new transfer`
  throw new Problem(
    'key-reused',
    detail,
    error.pointer === undefined ? { id: error.id, fields: error.fields } : { errors },
  )
}
