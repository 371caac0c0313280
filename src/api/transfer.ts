/*
 * Transfers over HTTP
 *
 * Submit one, submit many, ask what became of one.
 */
import type { Router } from '@koa/router'
import type { Context } from 'koa'
import {
  batchRequest,
  type Decision,
  differences,
  drawId,
  type Transfer,
  transferId,
  transferRequest,
  uuid,
} from '../transfer.ts'
import { readBody } from './body.ts'
import type { Decisions } from './decision.ts'
import { applied, readId, readKey, readQuery, readWait, refuseQuery } from './header.ts'
import type { Jobs } from './job.ts'
import { Problem, parse } from './problem.ts'
import type { Submissions } from './submission.ts'

export type TransferServices = { submissions: Submissions; decisions: Decisions; jobs: Jobs }

export function transferRoutes(router: Router, { submissions, decisions, jobs }: TransferServices): void {
  router.post('/transfers', async (ctx) => {
    refuseQuery(ctx)
    const key = readKey(ctx)
    const wait = readWait(ctx)
    submissions.admit()
    const asked = parse(transferRequest, await readBody(ctx))
    const transfer: Transfer = { id: key === undefined ? drawId() : transferId(asked.source, key), ...asked }

    if (key !== undefined) {
      const first = await decisions.read(transfer.id)
      if (first) {
        refuseReuse([{ asked: transfer, first }])
        ctx.set('Idempotent-Replayed', 'true')
        ctx.body = first
        return
      }
    }

    const job = await submissions.submit([transfer])
    const decision = wait > 0 ? await decisions.wait(transfer.id, wait) : null
    // Somebody may have used the key a moment ago: then theirs is the transfer that was decided.
    if (decision) refuseReuse([{ asked: transfer, first: decision }])
    answer(ctx, transfer, job, decision, wait)
    if (!decision) ctx.status = 202
  })

  router.post('/transfers/batch', async (ctx) => {
    refuseQuery(ctx)
    submissions.admit()
    const { transfers: items } = parse(batchRequest, await readBody(ctx))
    const transfers = items.map(({ key, ...asked }) => ({
      id: key === undefined ? drawId() : transferId(asked.source, key),
      ...asked,
    }))

    // One key, one transfer: within this request, and against what was decided before.
    const keyed = transfers.filter((_, position) => items[position]?.key !== undefined)
    const decided = await Promise.all(keyed.map((transfer) => decisions.read(transfer.id)))
    const firsts = new Map<string, Transfer>()
    for (const [position, transfer] of keyed.entries()) {
      if (!firsts.has(transfer.id)) firsts.set(transfer.id, decided[position] ?? transfer)
    }
    refuseReuse(transfers.map((asked, position) => ({ asked, first: firsts.get(asked.id) ?? asked, position })))

    const done = new Set(decided.flatMap((decision) => (decision ? [decision.id] : [])))
    const open = transfers.filter((transfer) => !done.has(transfer.id))
    const job = open.length > 0 ? await submissions.submit(open) : null
    ctx.status = 202
    ctx.body = { ids: transfers.map((transfer) => transfer.id), jobs: job === null ? [] : [job] }
  })

  // Or it would be taken for the id of a transfer.
  router.all('/transfers/batch', (ctx) => {
    ctx.set('Allow', 'POST')
    ctx.status = ctx.method === 'OPTIONS' ? 200 : 405
  })

  router.get('/transfers/:id', async (ctx) => {
    const id = readId(ctx, 'transfer')
    const { job: hint } = readQuery(ctx, { job: uuid.optional() })
    const wait = readWait(ctx)

    const decision = await decisions.read(id)
    if (decision) {
      applied(ctx, wait)
      ctx.body = decision
      return
    }
    const queued = await jobs.find(id, hint)
    // Between the two looks the job may have ended: then the decision is there by now.
    const late = queued && wait > 0 ? await decisions.wait(id, wait) : queued ? null : await decisions.read(id)
    if (!queued && !late) {
      throw new Problem(
        'transfer-not-found',
        'it is neither decided nor in the queue. Submitting it again with the same Idempotency-Key is safe',
      )
    }
    if (late) ctx.body = late
    else if (queued) ctx.body = { ...queued.transfer, status: 'queued', job: queued.job }
    if (late) applied(ctx, wait)
  })
}

function answer(ctx: Context, transfer: Transfer, job: string, decision: Decision | null, wait: number): void {
  ctx.set('Location', `/transfers/${transfer.id}?job=${job}`)
  if (decision) applied(ctx, wait)
  ctx.body = decision ?? { ...transfer, status: 'queued', job }
}

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
