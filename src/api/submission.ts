/*
 * Submissions
 *
 * A transfer request between its validation and the queue. All submissions of the moment go into the queue as one job:
 * a job costs Redis and Node ten times what a posted row costs Postgres. The answer to each waits until the queue has
 * stored its job.
 *
 * Next: decision.ts, how a client learns what became of it.
 */
import { createBatcher } from '../batch.ts'
import { packTransfers, type TransferQueue } from '../queue.ts'
import { drawId, type Transfer } from '../transfer.ts'
import { Problem, reach } from './problem.ts'

export type Submissions = {
  /**
   * Puts transfers into the queue, all or none of them.
   *
   * @returns the id of the job that carries them.
   * @throws Problem unavailable or overloaded.
   */
  submit(transfers: Transfer[]): Promise<string>
  /** Transfers that this API has put into the queue since it started. */
  accepted(): number
  /** Stops looking at the queue's depth. */
  close(): void
}

/**
 * @param options.batchSize transfers per job, unless one request brings more.
 * @param options.submissionLimit transfers kept in memory.
 * @param options.queueLimit jobs in the queue.
 */
export function createSubmissions(options: {
  queue: TransferQueue
  batchSize: number
  submissionLimit: number
  queueLimit: number
}): Submissions {
  const { queue, batchSize, submissionLimit, queueLimit } = options
  const batcher = createBatcher({ run: flush, size: batchSize, weigh: (group: Transfer[]) => group.length })
  let depth = 0
  let accepted = 0

  const watch = setInterval(async () => {
    const counts = await queue.getJobCounts('waiting', 'delayed').catch(() => ({}))
    depth = Object.values(counts).reduce((sum, count) => sum + count, 0)
  }, DEPTH_INTERVAL_MS)

  async function submit(transfers: Transfer[]): Promise<string> {
    if (batcher.waiting() + transfers.length > submissionLimit || depth > queueLimit) {
      throw new Problem(
        'overloaded',
        'more transfers are waiting than can be taken on. Repeat the request a little later',
      )
    }
    const job = await batcher.push(transfers)
    accepted += transfers.length
    return job
  }

  async function flush(groups: Transfer[][]): Promise<string[]> {
    // An id of our own, so that an add which times out here and is carried out later cannot make a second job.
    const jobId = drawId()
    await reach('queue', queue.add('post', packTransfers(groups.flat()), { jobId }))
    return groups.map(() => jobId)
  }

  return { submit, accepted: () => accepted, close: () => clearInterval(watch) }
}

const DEPTH_INTERVAL_MS = 500
