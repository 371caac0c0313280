/*
 * A run
 *
 * Load, the faults of the plan one round after the other, each followed by the wait until every part that was hit is at
 * work again; then the load ends, everything is drained, and the checker has its say.
 *
 * Next: part.ts, client.ts, fault.ts, checker.ts, in this order.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { seeded } from '../../bench/order.ts'
import { check, type Verdict } from './checker.ts'
import { openAccounts, type Progress, startLoad } from './client.ts'
import { type Fault, inject, type Round } from './fault.ts'
import type { Part, Stage } from './part.ts'

/** Not recovered: given up after recovery_ms. */
export type Recovery = { fault: Fault; recovery_ms: number; recovered: boolean }

export type Run = Verdict & {
  seed: number
  duration_s: number
  recoveries: Recovery[]
  statuses: ReadonlyMap<number, number>
}

export type RunOptions = {
  stage: Stage
  seed: number
  plan: (parts: readonly Part[], random: () => number) => Round[]
  /** Transfers per second. */
  rate: number
  say: (line: string) => void
  /** Called before each round. */
  onRound?: (done: number, of: number) => void
  /** Aborted: no more rounds. */
  signal?: AbortSignal
}

/** When each part was last seen at work, by its name; a store's work is a decision, from submission on. */
export type Sightings = { see(name: string, asked_ms: number): void; after(name: string): number }

export function createSightings(): Sightings {
  const seen = new Map<string, number>()
  return {
    see: (name, asked_ms) => void seen.set(name, Math.max(asked_ms, seen.get(name) ?? 0)),
    after: (name) => seen.get(name) ?? 0,
  }
}

/** Who is not at work by then will not be, by any measure. */
const GIVE_UP_MS = 60_000
const DRAIN_MS = 60_000
/** Of the decisions at the end: longer than a job of a dead worker waits to be taken over. */
const SETTLE_MS = 20_000

export async function run(options: RunOptions, sightings: Sightings): Promise<Run> {
  const { stage, seed, rate, say, onRound, signal } = options
  const began_ms = performance.now()
  const random = seeded(seed)
  const rounds = options.plan(stage.parts, random)
  const accounts = await openAccounts(stage.apis)
  const load = startLoad(accounts, { apis: stage.apis, rate, random: seeded(seed + 1), onProgress: sight })

  function sight({ what, api, asked_ms }: Progress): void {
    for (const part of stage.parts) {
      const own = part.kind === 'api' ? part.url === api && what === 'acknowledged' : what === 'decided'
      if (own && part.kind !== 'worker') sightings.see(part.name, asked_ms)
    }
  }

  const recoveries: Recovery[] = []
  for (const [number, round] of rounds.entries()) {
    if (signal?.aborted) break
    onRound?.(number, rounds.length)
    await sleep(300 + 1200 * random())
    const done = await Promise.allSettled(round.map((fault) => inject(fault, find(stage, fault.part))))
    for (const outcome of done) if (outcome.status === 'rejected') throw outcome.reason
    // From here on all parts are there; whoever is back before another cannot be at work before.
    const back_ms = performance.now()
    await Promise.all(
      round.map(async (fault) => {
        while (sightings.after(fault.part) <= back_ms && performance.now() - back_ms < GIVE_UP_MS) await sleep(10)
        const recovered = sightings.after(fault.part) > back_ms
        recoveries.push({ fault, recovery_ms: Math.round(performance.now() - back_ms), recovered })
      }),
    )
    say(describe(round, recoveries.slice(-round.length)))
  }
  await load.stop(DRAIN_MS)
  await load.settle(SETTLE_MS)
  const verdict = await check({
    sent: load.sent,
    accounts,
    databaseUrl: await stage.databaseUrl(),
    postgresLog: stage.postgresLog,
  })
  const odd = [...load.statuses.keys()].filter((status) => ![0, 200, 202, 503].includes(status))
  for (const status of odd) verdict.faults.push(`${load.statuses.get(status)} answers ${status}`)
  const given_up = [...load.sent.values()].filter(({ acknowledged }) => !acknowledged).length
  if (given_up > 0)
    verdict.faults.push(`${given_up} transfers not accepted within ${DRAIN_MS / 1000} s after the last fault`)
  const duration_s = Math.round((performance.now() - began_ms) / 1000)
  return { ...verdict, seed, duration_s, recoveries, statuses: load.statuses }
}

function find(stage: Stage, name: string): Part {
  const part = stage.parts.find((candidate) => candidate.name === name)
  if (!part) throw new Error(`there is no ${name}`)
  return part
}

function describe(round: Round, recoveries: readonly Recovery[]): string {
  const slowest = Math.max(...recoveries.map(({ recovery_ms }) => recovery_ms))
  const deeds = round.map(({ deed, part, away_ms }) => `${deed} ${part} (${(away_ms / 1000).toFixed(1)} s)`)
  return `${deeds.join(', ')}: at work again after ${(slowest / 1000).toFixed(1)} s`
}
