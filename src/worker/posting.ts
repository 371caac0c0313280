/*
 * Posting
 *
 * Takes the transfers of however many jobs are in hand, merges them into batches and has each decided by the ledger. Every
 * transfer ends decided, however long the database is away, unless the database can make nothing of it: then it fails,
 * alone.
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

const MANY_CREDITS = 1000

/** Destinations counted at once: what is forgotten beyond it is for the sweep. */
const CREDITS_LIMIT = 100_000

/** A transfer of a job, and where its answer goes. */
type Entry = { transfer: Transfer; job: Posted; position: number }

/** A job's answers as they come in; `done` when none is left. */
type Posted = { answers: (Outcome | PoisonError)[]; left: number; done: () => void; origin: Origin | undefined }

/**
 * Batches are natural, as everywhere (batch.ts): one call is under way, and what arrives meanwhile goes with the next. A
 * second call is made only when a whole batch is waiting for it, since a call costs as much as deciding ten transfers;
 * and it takes only sources that no other call has in hand, so that the calls of one worker never want the same claim.
 *
 * What one source sends goes together, oldest source first: its chain is read once for all of them, which decides a
 * backlog of many sources half again as fast as taking it transfer by transfer.
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
  /** By source, in the order in which the sources came. */
  const waiting = new Map<string, Entry[]>()
  /** Sources that a call has in hand, or that were busy and are left alone for a moment. */
  const taken = new Set<string>()
  /** How often in a row a source was busy. */
  const refusals = new Map<string, number>()
  /** By destination, since its closing was last ordered for them. */
  const credits = new Map<string, number>()
  let calls = 0
  let scheduled = false

  function post(transfers: Transfer[]): Promise<(Outcome | PoisonError)[]> {
    const answers: (Outcome | PoisonError)[] = new Array(transfers.length)
    if (transfers.length === 0) return Promise.resolve(answers)
    return new Promise((resolve) => {
      const job: Posted = { answers, left: transfers.length, done: () => resolve(answers), origin: tracing?.here() }
      transfers.forEach((transfer, position) => {
        const group = waiting.get(transfer.source)
        if (group) group.push({ transfer, job, position })
        else waiting.set(transfer.source, [{ transfer, job, position }])
      })
      schedule()
    })
  }

  function schedule(): void {
    if (scheduled) return
    scheduled = true
    // Whatever else arrives in this turn of the event loop goes along.
    setImmediate(() => {
      scheduled = false
      fill()
    })
  }

  function fill(): void {
    while (calls < concurrency) {
      const batch = gather()
      if (batch.length < (calls === 0 ? 1 : batchSize)) return
      void call(batch)
    }
  }

  /** The next batch, not yet taken. */
  function gather(): Entry[] {
    const batch: Entry[] = []
    for (const [source, group] of waiting) {
      if (taken.has(source)) continue
      for (const entry of group) if (batch.push(entry) === batchSize) return batch
    }
    return batch
  }

  async function call(batch: Entry[]): Promise<void> {
    calls += 1
    const bySource = Map.groupBy(batch, (entry) => entry.transfer.source)
    for (const [source, { length }] of bySource) {
      taken.add(source)
      const rest = waiting.get(source)?.slice(length) ?? []
      // To the end: whoever sends more than a batch holds lets the others go first.
      waiting.delete(source)
      if (rest.length > 0) waiting.set(source, rest)
    }
    const work = () => decide(batch.map((entry) => entry.transfer))
    const answers = await (tracing ? tracing.run('post_transfers', originsOf(batch), work) : work())
    if (metrics) count(metrics, answers)
    calls -= 1
    batch.forEach(({ job, position }, at) => {
      const answer = answers[at]
      if (!answer) return
      job.answers[position] = answer
      job.left -= 1
      if (job.left === 0) job.done()
    })
    const undecided = batch.filter((_, position) => answers[position] === null)
    const refused = Map.groupBy(undecided, (entry) => entry.transfer.source)
    for (const source of bySource.keys()) {
      const entries = refused.get(source)
      if (entries) retryLater(source, entries)
      else {
        taken.delete(source)
        refusals.delete(source)
      }
    }
    fill()
  }

  /**
   * Another worker is busy with this source: again a little later, the later the oftener, at random, so that workers in
   * step fall out of it. Asking at once would only take processor time from the one at work.
   */
  function retryLater(source: string, entries: Entry[]): void {
    waiting.set(source, [...entries, ...(waiting.get(source) ?? [])])
    const times = (refusals.get(source) ?? 0) + 1
    refusals.set(source, times)
    const release = () => {
      taken.delete(source)
      schedule()
    }
    setTimeout(release, Math.random() * Math.min(2 ** times, 64))
  }

  /**
   * The call finds the long tails of those who send more than was closed. Whoever else receives much would be found by
   * the next sweep or the first to read its balance, who may then wait for a million rows to be added up.
   *
   * @returns destinations that this worker has credited 1,000 times since it last said so.
   */
  function countCredits(batch: Transfer[], outcomes: readonly (Outcome | null)[]): string[] {
    const many: string[] = []
    if (credits.size > CREDITS_LIMIT) credits.clear()
    batch.forEach(({ destination }, position) => {
      if (outcomes[position] !== 'posted') return
      const count = ((credits.get(destination) ?? 0) + 1) % MANY_CREDITS
      credits.set(destination, count)
      if (count === 0) many.push(destination)
    })
    return many
  }

  async function decide(batch: Transfer[]): Promise<Answer[]> {
    for (let attempt = 0; ; attempt++) {
      try {
        const { outcomes, long_tails } = await postTransfers(pool, batch)
        orderClosing([...long_tails, ...countCredits(batch, outcomes)])
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
