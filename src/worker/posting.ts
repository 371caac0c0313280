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
import { createBatcher } from '../batch.ts'
import { isPassing } from '../db/fault.ts'
import { postTransfers } from '../db/transfer.ts'
import type { Outcome, Transfer } from '../transfer.ts'

export type Poster = {
  /** Has each transfer decided. @returns an outcome each, in order, or why the database can make nothing of it. */
  post(transfers: Transfer[]): Promise<(Outcome | PoisonError)[]>
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
 * @param options.orderClosing called with the accounts whose books want closing.
 */
export function createPoster(options: {
  pool: DatabasePool
  batchSize: number
  concurrency: number
  orderClosing: (accounts: readonly string[]) => void
  log: Logger
}): Poster {
  const { pool, batchSize, concurrency, orderClosing, log } = options

  // A source always goes the same lane, and a lane makes one call at a time: so two calls of one worker never want the
  // same source, and an account that is hot here is decided in large batches instead of being skipped again and again.
  // What goes into a lane together, from one job, is one item: a promise per transfer would cost more than the rest.
  const lanes = Array.from({ length: concurrency }, () =>
    createBatcher({ run: decideAll, size: batchSize, weigh: (group: Transfer[]) => group.length }),
  )

  async function post(transfers: Transfer[]): Promise<(Outcome | PoisonError)[]> {
    const byLane = Map.groupBy(
      transfers,
      (transfer) => Number.parseInt(transfer.source.slice(-6), 16) % concurrency || 0,
    )
    const answers = new Map<Transfer, Outcome | PoisonError>()
    await Promise.all(
      [...byLane].map(async ([number, group]) => {
        const lane = lanes[number] as (typeof lanes)[number]
        let left = group
        for (let attempt = 0; left.length > 0; attempt++) {
          // Another worker is busy with the source: at once into the next batch, then a little later each time, at
          // random, so that workers in step fall out of it.
          if (attempt > 1) await sleep(Math.random() * Math.min(2 ** attempt, 64))
          const said = await lane.push(left)
          for (const [position, transfer] of left.entries()) {
            const answer = said[position]
            if (answer) answers.set(transfer, answer)
          }
          left = left.filter((_, position) => !said[position])
        }
      }),
    )
    return transfers.map((transfer) => answers.get(transfer) as Outcome | PoisonError)
  }

  async function decideAll(groups: Transfer[][]): Promise<Answer[][]> {
    const answers = await decide(groups.flat())
    let to = 0
    return groups.map((group) => {
      const from = to
      to += group.length
      return answers.slice(from, to)
    })
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
