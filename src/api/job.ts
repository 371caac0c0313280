/*
 * Jobs over HTTP, and the search for a transfer that is still in one.
 */
import type { Router } from '@koa/router'
import { createBatcher, READ_LIMIT } from '../batch.ts'
import { LIVING, type TransferJob, type TransferQueue, unpackTransfers } from '../queue.ts'
import type { Transfer } from '../transfer.ts'
import { demand } from './access.ts'
import { answer } from './answer.ts'
import { readId, refuseQuery } from './header.ts'
import { Problem, reach } from './problem.ts'

type Queued = { transfer: Transfer; job: string }

export type Jobs = {
  /**
   * Looks for a transfer among the jobs still to be worked on.
   *
   * @param hint the job that carries it, if the client knows: one look-up. Without it, or if it is wrong, the living
   *   jobs are searched, once for all who ask at the moment.
   * @throws Problem unavailable.
   */
  find(id: string, hint: string | undefined): Promise<Queued | null>
}

/** Jobs of each state read at once. */
const SEARCH_PAGE = 100

export function createJobs(queue: TransferQueue): Jobs {
  const search = createBatcher({
    run: (ids: string[]) => reach('queue', searchAll(ids)),
    size: READ_LIMIT,
    limit: READ_LIMIT,
  })

  async function find(id: string, hint: string | undefined): Promise<Queued | null> {
    const hinted = hint === undefined ? null : await reach('queue', lookUp(id, hint))
    return hinted ?? (await search.push(id))
  }

  async function lookUp(id: string, jobId: string): Promise<Queued | null> {
    const job = await queue.getJob(jobId)
    const transfer = job && unpackTransfers(job.data).find((candidate) => candidate.id === id)
    if (!job || !transfer) return null
    const state = await queue.getJobState(jobId)
    return LIVING.some((living) => living === state) ? { transfer, job: jobId } : null
  }

  async function searchAll(ids: string[]): Promise<(Queued | null)[]> {
    const found = new Map<string, Queued>()
    const wanted = new Set(ids)
    // Page by page, because a deep queue does not fit into memory; who searches one for too long is told 503. And state by
    // state, in the order of LIVING: a job may be taken up while the pages before it are read.
    for (const state of LIVING) {
      for (let start = 0; found.size < wanted.size; start += SEARCH_PAGE) {
        const page = await queue.getJobs([state], start, start + SEARCH_PAGE - 1)
        if (page.length === 0) break
        for (const job of page) {
          // A job may end while the list is being read.
          if (!job?.id) continue
          for (const transfer of unpackTransfers(job.data)) {
            if (wanted.has(transfer.id)) found.set(transfer.id, { transfer, job: job.id })
          }
        }
      }
    }
    return ids.map((id) => found.get(id) ?? null)
  }

  return { find }
}

export function jobRoutes(router: Router, { queue }: { queue: TransferQueue }): void {
  // Counts only, of whoever's transfers went into the job together: enough for anyone who may read and knows its id.
  router.get('/jobs/:id', async (ctx) => {
    const caller = demand(ctx, 'read')
    refuseQuery(ctx)
    const id = readId(ctx, 'job')
    // In this order: a job that ends in between is then shown as active with its results, not as completed without.
    const state = await reach('queue', queue.getJobState(id))
    const job = await reach('queue', queue.getJob(id))
    if (!job || state === 'unknown') {
      throw new Problem(
        'job-not-found',
        'finished jobs are kept for a short while only; what became of their transfers is in the ledger',
      )
    }
    const description = describe(id, job, String(state))
    // What the database said of a transfer, which may be another's.
    answer(ctx, 200, caller.scopes.has('operate') ? description : { ...description, failure: null })
  })
}

function describe(id: string, job: TransferJob, state: string) {
  // By two clocks, and a worker reads its own before it asks for a job: nothing starts before it was submitted.
  const started = job.processedOn ? Math.max(job.processedOn, job.timestamp) : undefined
  return {
    id,
    state,
    attempts: job.attemptsMade,
    transfers: unpackTransfers(job.data).length,
    posted: job.returnvalue?.posted ?? null,
    rejected: job.returnvalue?.rejected ?? null,
    submitted_at: moment(job.timestamp),
    started_at: moment(started),
    finished_at: moment(job.finishedOn),
    failure: job.failedReason ?? null,
  }
}

function moment(epoch_ms: number | undefined): string | null {
  return epoch_ms === undefined || epoch_ms === null ? null : new Date(epoch_ms).toISOString()
}
