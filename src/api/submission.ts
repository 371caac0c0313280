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
  /** Says at once, before a body is read, that it would be in vain. @throws Problem overloaded. */
  admit(): void
  /**
   * Puts transfers into the queue, all or none of them.
   *
   * @returns the id of the job that carries them.
   * @throws Problem unavailable or overloaded.
   */
  submit(transfers: Transfer[]): Promise<string>
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
}): Submissions {
  const { queue, batchSize, submissionLimit, queueLimit } = options
  const weigh = (group: Transfer[]) => group.length
  const batcher = createBatcher({ run: flush, size: batchSize, limit: submissionLimit, weigh })
  let jobs = 0
  let transfersPerJob = 1

  const watch = setInterval(async () => {
    const counts = await queue.getJobCounts('waiting', 'delayed').catch(() => ({}))
    jobs = Object.values(counts).reduce((sum, count) => sum + count, 0)
  }, DEPTH_INTERVAL_MS)

  function admit(): void {
    if (batcher.waiting() >= submissionLimit || jobs * transfersPerJob > queueLimit) {
      throw new Problem('overloaded', 'more transfers are waiting than can be taken on: repeat the request later')
    }
  }

  async function submit(transfers: Transfer[]): Promise<string> {
    admit()
    return await batcher.push(transfers)
  }

  async function flush(groups: Transfer[][]): Promise<string[]> {
    // An id of our own, so that an add which times out here and is carried out later cannot make a second job.
    const jobId = drawId()
    const transfers = groups.flat()
    transfersPerJob += (transfers.length - transfersPerJob) / 50
    await reach('queue', queue.add('post', packTransfers(transfers), { jobId }))
    return groups.map(() => jobId)
  }

  return { admit, submit, close: () => clearInterval(watch) }
}

const DEPTH_INTERVAL_MS = 500
