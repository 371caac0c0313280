/*
 * Submissions
 *
 * A transfer request between its validation and the queue. All submissions of the moment go into the queue as one job:
 * a job costs Redis and Node ten times what a posted row costs Postgres. The answer to each waits until the queue has
 * stored its job.
 *
 * Next: decision.ts, how a client learns what became of it.
 */
import type { Logger } from 'pino'
import { createBatcher } from '../batch.ts'
import type { ApiMetrics } from '../metrics.ts'
import { packTransfers, type TransferQueue } from '../queue.ts'
import type { Origin, Tracing } from '../trace.ts'
import { drawId, type Transfer } from '../transfer.ts'
import { Problem, reach, unavailable } from './problem.ts'

export type Submissions = {
  /** Says at once, before a body is read, that it would be in vain. @throws Problem overloaded or unavailable. */
  admit(transfers?: number): void
  /**
   * Puts transfers into the queue, all or none of them.
   *
   * @param requestId of whoever asks, for the log.
   * @returns the id of the job that carries them.
   * @throws Problem unavailable or overloaded.
   */
  submit(transfers: Transfer[], requestId: string): Promise<string>
  /** Stops looking at the queue's depth. */
  close(): void
}

/**
 * @param options.batchSize transfers per job, unless one request brings more.
 * @param options.submissionLimit transfers kept in memory.
 * @param options.queueLimit transfers in the queue, about: the store counts jobs, which are taken to hold as many as
 *   this process' own of late.
 */
export function createSubmissions(options: {
  queue: TransferQueue
  batchSize: number
  submissionLimit: number
  queueLimit: number
  metrics: ApiMetrics
  tracing: Tracing | undefined
  log: Logger
}): Submissions {
  const { queue, batchSize, submissionLimit, queueLimit, metrics, tracing, log } = options
  const weigh = ({ transfers }: Group) => transfers.length
  const batcher = createBatcher({ run: flush, size: batchSize, limit: submissionLimit, weigh })
  let jobs = 0
  let transfersPerJob = 1

  const watch = setInterval(async () => {
    const counts = await queue.getJobCounts('waiting', 'delayed').catch(() => ({}))
    jobs = Object.values(counts).reduce((sum, count) => sum + count, 0)
  }, DEPTH_INTERVAL_MS)

  function admit(transfers = 1): void {
    const waited_ms = batcher.waited()
    if (waited_ms > WAIT_LIMIT_MS) throw unavailable('queue', new Error(`late by ${Math.round(waited_ms)} ms`))
    if (batcher.waiting() + transfers > submissionLimit || jobs * transfersPerJob > queueLimit) {
      metrics.overloaded.inc()
      throw new Problem('overloaded', 'more transfers are waiting than can be taken on: repeat the request later')
    }
  }

  async function submit(transfers: Transfer[], requestId: string): Promise<string> {
    admit(transfers.length)
    const job = await batcher.push({ transfers, origin: tracing?.here() })
    if (log.isLevelEnabled('debug')) {
      for (const { id } of transfers) log.debug({ request_id: requestId, job, transfer: id }, 'submitted')
    }
    return job
  }

  async function flush(groups: Group[]): Promise<string[]> {
    // An id of our own, so that an add which times out here and is carried out later cannot make a second job.
    const jobId = drawId()
    const transfers = groups.flatMap((group) => group.transfers)
    transfersPerJob += (transfers.length - transfersPerJob) / 50
    const add = () => reach('queue', queue.add('post', packTransfers(transfers), { jobId }))
    await (tracing ? tracing.run('submit', originsOf(groups), add) : add())
    metrics.submitted.inc(transfers.length)
    metrics.jobSize.observe(transfers.length)
    return groups.map(() => jobId)
  }

  return { admit, submit, close: () => clearInterval(watch) }
}

/** What one request submits, and where it came from. */
type Group = { transfers: Transfer[]; origin: Origin | undefined }

const originsOf = (groups: Group[]): Origin[] => groups.flatMap(({ origin }) => origin ?? [])

const DEPTH_INTERVAL_MS = 500

/**
 * Whoever is accepted has waited for one flush and been in the next. While the first in line has waited this long for a
 * queue that is late, another would not have its answer within a second, and gets it now: no.
 */
const WAIT_LIMIT_MS = 600
