/*
 * Posting
 *
 * Takes the transfers of however many jobs are in hand, merges them into batches and has each decided by the ledger. Every transfer ends decided, however long the database is away, unless the database can make nothing of
 * it: then it fails, alone.
 *
 * Next: main.ts, the worker process.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { UnrecoverableError } from 'bullmq'
import type { Logger } from 'pino'
import type { DatabasePool } from 'slonik'
import { isPassing } from '../db/fault.ts'
import { postTransfers } from '../db/transfer.ts'
import type { WorkerMetrics } from '../metrics.ts'
import type { Origin, Tracing } from '../trace.ts'
import type { Outcome, Transfer } from '../transfer.ts'

export type Poster = {
  /** Has each transfer decided. @returns an outcome each, in order, or why the database can make nothing of it. */
  post(transfers: Transfer[]): Promise<(Outcome | PoisonError)[]>
}

/** The database refuses this one transfer as such: repeating it would not help, and BullMQ does not. */
export class PoisonError extends UnrecoverableError {
  override name = 'PoisonError'

  constructor(message: string, cause: unknown) {
    super(message)
    this.cause = cause
  }
}

/** What one call says of one transfer: its outcome, null for "the source is busy, ask again", or why it cannot be. */
type Answer = Outcome | PoisonError | null

/** A transfer of a job, and where its answer goes. */
type Entry = { transfer: Transfer; job: Posted; position: number; attempts: number }

/** A job's answers as they come in; `done` when none is left. */
type Posted = { answers: (Outcome | PoisonError)[]; left: number; done: () => void; origin: Origin | undefined }

/**
 * Batches are natural, as everywhere (batch.ts): one call is under way, and what arrives meanwhile goes with the next. A
 * second call is made only when a whole batch is waiting for it, since a call costs as much as deciding ten transfers;
 * and it takes only sources that no other call has in hand, so that the calls of one worker never want the same claim.
 *
 * @param options.batchSize transfers per call at most.
 * @param options.concurrency calls under way at once at most.
 * @param options.orderClosing called with the accounts whose books want closing.
 */
export function createPoster(options: {
  pool: DatabasePool
  batchSize: number
  concurrency: number
  orderClosing: (accounts: readonly string[]) => void
  metrics?: WorkerMetrics
  tracing?: Tracing | undefined
  log: Logger
}): Poster {
  const { pool, batchSize, concurrency, orderClosing, metrics, tracing, log } = options
  const inHand = new Set<string>()
  let waiting: Entry[] = []
  let calls = 0
  let scheduled = false

  function post(transfers: Transfer[]): Promise<(Outcome | PoisonError)[]> {
    const answers: (Outcome | PoisonError)[] = new Array(transfers.length)
    if (transfers.length === 0) return Promise.resolve(answers)
    return new Promise((resolve) => {
      const job: Posted = { answers, left: transfers.length, done: () => resolve(answers), origin: tracing?.here() }
      enqueue(transfers.map((transfer, position) => ({ transfer, job, position, attempts: 0 })))
    })
  }

  function enqueue(entries: Entry[]): void {
    // Who has been turned away before goes first.
    if (entries[0]?.attempts) waiting.unshift(...entries)
    else waiting.push(...entries)
    if (scheduled) return
    scheduled = true
    // Whatever else arrives in this turn of the event loop goes along.
    setImmediate(() => {
      scheduled = false
      fill()
    })
  }

  function fill(): void {
    while (calls < concurrency && waiting.length >= (calls === 0 ? 1 : batchSize)) {
      const batch: Entry[] = []
      const rest: Entry[] = []
      for (const entry of waiting) {
        const free = batch.length < batchSize && !inHand.has(entry.transfer.source)
        ;(free ? batch : rest).push(entry)
      }
      if (batch.length === 0) return
      waiting = rest
      void call(batch)
    }
  }

  async function call(batch: Entry[]): Promise<void> {
    calls += 1
    for (const { transfer } of batch) inHand.add(transfer.source)
    const work = () => decide(batch.map((entry) => entry.transfer))
    const answers = await (tracing ? tracing.run('post_transfers', originsOf(batch), work) : work())
    if (metrics) count(metrics, answers)
    for (const { transfer } of batch) inHand.delete(transfer.source)
    calls -= 1
    retry(batch.filter((_, position) => answers[position] === null))
    for (const [position, { job, position: place }] of batch.entries()) {
      const answer = answers[position]
      if (!answer) continue
      job.answers[place] = answer
      job.left -= 1
      if (job.left === 0) job.done()
    }
    fill()
  }

  /**
   * Another worker is busy with these sources: at once into the next batch, then a little later each time, at random, so
   * that workers in step fall out of it.
   */
  function retry(entries: Entry[]): void {
    if (entries.length === 0) return
    for (const entry of entries) entry.attempts += 1
    const attempts = Math.max(...entries.map((entry) => entry.attempts))
    if (attempts === 1) enqueue(entries)
    else setTimeout(enqueue, Math.random() * Math.min(2 ** attempts, 64), entries)
  }

  async function decide(batch: Transfer[]): Promise<Answer[]> {
    for (let attempt = 0; ; attempt++) {
      try {
        const { outcomes, long_tails } = await postTransfers(pool, batch)
        orderClosing(long_tails)
        return [...outcomes]
      } catch (error) {
        if (isPassing(error)) {
          if (attempt > 0)
            log.warn({ error: String(error), attempt, transfers: batch.length }, 'posting failed, trying again')
          await sleep(Math.random() * Math.min(50 * 2 ** attempt, 2000))
          continue
        }
        const [only] = batch
        if (batch.length === 1 && only) {
          log.error({ err: error, transfer: only.id }, 'the database can make nothing of this transfer')
          return [new PoisonError(`transfer ${only.id}: ${String(error)}`, error)]
        }
        // One of them is the culprit: halve until it stands alone, so that its neighbours are decided.
        const middle = Math.ceil(batch.length / 2)
        return [...(await decide(batch.slice(0, middle))), ...(await decide(batch.slice(middle)))]
      }
    }
  }

  return { post }
}

function originsOf(batch: Entry[]): Origin[] {
  return [...new Set(batch.map(({ job }) => job))].flatMap(({ origin }) => origin ?? [])
}

/** Once per call, however many transfers were in it. */
function count(metrics: WorkerMetrics, answers: Answer[]): void {
  const tally = new Map<Outcome | null, number>()
  for (const answer of answers) {
    if (!(answer instanceof PoisonError)) tally.set(answer, (tally.get(answer) ?? 0) + 1)
  }
  metrics.batchSize.observe(answers.length)
  for (const [outcome, transfers] of tally) {
    if (outcome === 'posted') metrics.posted.inc(transfers)
    else if (outcome === null) metrics.busy.inc(transfers)
    else metrics.rejected.inc({ reason: outcome }, transfers)
  }
}
