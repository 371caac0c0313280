/*
 * Decisions
 *
 * How a client learns what became of its transfer: by asking, or by waiting. However many ask at a time, there is one
 * query under way for all of them, and one more for all who wait.
 */
import { AsyncLocalStorage } from 'node:async_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import type { DatabasePool } from 'slonik'
import { createBatcher, READ_LIMIT } from '../batch.ts'
import { readDecisions } from '../db/transfer.ts'
import type { Decision } from '../transfer.ts'
import { reach } from './problem.ts'

export type Decisions = {
  /** The decision, or null if there is none (yet). @throws Problem unavailable. */
  read(id: string): Promise<Decision | null>
  /**
   * The decision as soon as there is one, or null when the time is over, whatever the state of the database; at once
   * where too many wait already.
   */
  wait(id: string, seconds: number): Promise<Decision | null>
  /** Ends all waiting, as if its time were over: the process is about to stop. */
  release(): void
}

export function createDecisions(pool: DatabasePool): Decisions {
  const reads = createBatcher({
    run: (ids: string[]) => reach('database', readDecisions(pool, ids)),
    size: 1000,
    limit: READ_LIMIT,
  })
  const waiters = new Map<string, Set<(decision: Decision | null) => void>>()
  // Polling is for all who wait: it is no part of the first one's trace.
  const apart = AsyncLocalStorage.snapshot()
  let waiting = 0
  let polling = false
  let released = false

  function wait(id: string, seconds: number): Promise<Decision | null> {
    if (released || waiting >= WAITER_LIMIT) return Promise.resolve(null)
    return new Promise((resolve) => {
      const group = waiters.get(id) ?? new Set()
      const done = (decision: Decision | null) => {
        clearTimeout(timer)
        waiting -= 1
        group.delete(done)
        if (group.size === 0) waiters.delete(id)
        resolve(decision)
      }
      const timer = setTimeout(done, seconds * 1000, null)
      waiters.set(id, group.add(done))
      waiting += 1
      if (!polling) void apart(poll)
    })
  }

  async function poll(): Promise<void> {
    polling = true
    while (waiters.size > 0) {
      const began = performance.now()
      const decisions = await readDecisions(pool, [...waiters.keys()]).catch(() => [])
      for (const decision of decisions) {
        if (!decision) continue
        for (const done of [...(waiters.get(decision.id) ?? [])]) done(decision)
      }
      // The more there is to look for, the longer the pause: waiting takes a quarter of one connection at most. But a look
      // may also have taken long because this process was stopped meanwhile, for as long as half a minute.
      await sleep(Math.min(Math.max(POLL_PAUSE_MS, 3 * (performance.now() - began)), POLL_PAUSE_LIMIT_MS))
    }
    polling = false
  }

  function release(): void {
    released = true
    for (const done of [...waiters.values()].flatMap((group) => [...group])) done(null)
  }

  return { read: reads.push, wait, release }
}

const POLL_PAUSE_MS = 5
const POLL_PAUSE_LIMIT_MS = 500

/** Clients that wait. One query asks for all of them, again and again. */
const WAITER_LIMIT = 10_000
