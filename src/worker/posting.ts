/*
 * Posting
 *
 * Takes transfers, one by one, from however many jobs are in hand, merges them into batches and has each decided by
 * the ledger. Every transfer ends decided, however long the database is away, unless the database can make nothing of
 * it: then it fails, alone.
 *
 * Next: main.ts, the worker process.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import type { DatabasePool } from 'slonik'
import { type Batcher, createBatcher } from '../batch.ts'
import { isPassing } from '../db/fault.ts'
import { postTransfers } from '../db/transfer.ts'
import type { Outcome, Transfer } from '../transfer.ts'

export type Poster = {
  /** @throws PoisonError if the database can make nothing of this transfer. */
  post(transfer: Transfer): Promise<Outcome>
}

/** The database refuses this one transfer as such: repeating it would not help. */
export class PoisonError extends Error {
  override name = 'PoisonError'
}

/** What one call says of one transfer: its outcome, null for "the source is busy, ask again", or why it cannot be. */
type Answer = Outcome | PoisonError | null

/**
 * @param options.batchSize transfers per call at most.
 * @param options.concurrency calls under way at once.
 */
export function createPoster(options: {
  pool: DatabasePool
  batchSize: number
  concurrency: number
  log: Logger
}): Poster {
  const { pool, batchSize, concurrency, log } = options

  // A source always goes the same lane, and a lane makes one call at a time: so two calls of one worker never want the
  // same source, and an account that is hot here is decided in large batches instead of being skipped again and again.
  const lanes: Batcher<Transfer, Answer>[] = Array.from({ length: concurrency }, () =>
    createBatcher({ run: (batch) => decide(batch), size: batchSize }),
  )

  async function post(transfer: Transfer): Promise<Outcome> {
    const lane = lanes[Number.parseInt(transfer.source.slice(-6), 16) % concurrency] ?? lanes[0]
    for (let attempt = 0; ; attempt++) {
      const answer = await (lane as Batcher<Transfer, Answer>).push(transfer)
      if (answer instanceof PoisonError) throw answer
      if (answer !== null) return answer
      // Another worker is busy with the source: at once into the next batch, then a little later each time, at random,
      // so that workers in step fall out of it.
      if (attempt > 0) await sleep(Math.random() * Math.min(2 ** attempt, 64))
    }
  }

  async function decide(batch: Transfer[]): Promise<Answer[]> {
    for (let attempt = 0; ; attempt++) {
      try {
        const { outcomes } = await postTransfers(pool, batch)
        return [...outcomes]
      } catch (error) {
        if (isPassing(error)) {
          if (attempt > 0) log.warn({ error: String(error), attempt, transfers: batch.length }, 'posting failed, trying again')
          await sleep(Math.random() * Math.min(50 * 2 ** attempt, 2000))
          continue
        }
        const [only] = batch
        if (batch.length === 1 && only) {
          log.error({ err: error, transfer: only.id }, 'the database can make nothing of this transfer')
          return [new PoisonError(`transfer ${only.id}: ${String(error)}`, { cause: error })]
        }
        // One of them is the culprit: halve until it stands alone, so that its neighbours are decided.
        const middle = Math.ceil(batch.length / 2)
        return [...(await decide(batch.slice(0, middle))), ...(await decide(batch.slice(middle)))]
      }
    }
  }

  return { post }
}
