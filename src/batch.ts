/*
 * Natural batching
 *
 * The mechanism behind the flush of submissions and the coalesced reads (worker/posting.ts has its like): while nothing
 * is under way, what arrives in one turn of the event loop is run at once; while something is, the rest gathers and
 * goes with the next run. So batch size follows load, and idle latency stays low. No timers, nothing to tune. What may
 * wait is bounded: above that, an item is turned away at once.
 *
 * A run that fails takes those who wait down with it: what it needed is away, and they would learn the same, later.
 */

/** More waits already than may. */
export class OverloadError extends Error {
  override name = 'OverloadError'
}

/** Reads that may wait for one store: a batch with keys brings 1,000 at once. Some 200 bytes each. */
export const READ_LIMIT = 50_000

export type Batcher<Item, Result> = {
  /**
   * Resolves with the item's own result, or rejects with the error of the run it was part of or waited for.
   *
   * @throws OverloadError, as a rejection.
   */
  push(item: Item): Promise<Result>
  /** Weight of what waits for the next run. */
  waiting(): number
  /** How long the first of those has waited, in ms; 0 if none does. */
  waited(): number
}

type Entry<Item, Result> = {
  item: Item
  /** When it came, by performance.now(). */
  since: number
  resolve: (result: Result) => void
  reject: (error: unknown) => void
}

/**
 * @param run does the work of one batch; answers one result per item, in order.
 * @param size the most that one batch may weigh; an item heavier than that goes alone.
 * @param limit the most that may wait for the next run, by weight.
 * @param weigh what an item counts for; 1 unless told.
 */
export function createBatcher<Item, Result>(options: {
  run: (items: Item[]) => Promise<Result[]>
  size: number
  limit: number
  weigh?: (item: Item) => number
}): Batcher<Item, Result> {
  const { run, size, limit, weigh = () => 1 } = options
  let queue: Entry<Item, Result>[] = []
  let weight = 0
  let busy = false

  function push(item: Item): Promise<Result> {
    const heavier = weight + weigh(item)
    if (heavier > limit) return Promise.reject(new OverloadError(`${weight} are waiting already`))
    return new Promise((resolve, reject) => {
      queue.push({ item, since: performance.now(), resolve, reject })
      weight = heavier
      if (busy) return
      busy = true
      setImmediate(drain)
    })
  }

  async function drain(): Promise<void> {
    while (queue.length > 0) {
      const batch = take()
      try {
        const results = await run(batch.map((entry) => entry.item))
        for (const [position, entry] of batch.entries()) entry.resolve(results[position] as Result)
      } catch (error) {
        for (const entry of [...batch, ...queue]) entry.reject(error)
        queue = []
        weight = 0
      }
    }
    busy = false
  }

  function take(): Entry<Item, Result>[] {
    let taken = 0
    let count = 0
    for (const entry of queue) {
      const heavier = taken + weigh(entry.item)
      if (count > 0 && heavier > size) break
      taken = heavier
      count += 1
    }
    const batch = queue.slice(0, count)
    queue = queue.slice(count)
    weight -= taken
    return batch
  }

  function waited(): number {
    const [first] = queue
    return first ? performance.now() - first.since : 0
  }

  return { push, waiting: () => weight, waited }
}
