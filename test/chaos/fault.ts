/*
 * Faults
 *
 * What is done to the parts, and the plan of a run: every fault there is to be, shuffled by the seed into rounds of one
 * or two at a time. Clock steps are not among them.
 *
 * `kill -9` is no power cut: what the kernel was given reaches the disk. What only fsync protects is not tried here.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Kind, Part } from './part.ts'

/**
 * `kill`: kill -9. `quit`: Postgres' immediate shutdown. `stop`: SIGSTOP, and SIGCONT later. `cut`: the connections of a
 * worker to Postgres are cut after a call has committed and before its answer arrives. `lose`: they never pass another
 * byte, and nobody is told. `fill`: the disk under Redis' log is full.
 */
export type Deed = 'kill' | 'quit' | 'stop' | 'cut' | 'lose' | 'fill'

export type Fault = { deed: Deed; part: string; kind: Kind; after_ms: number; away_ms: number }

/** Faults that overlap: each begins so long after the round does. */
export type Round = Fault[]

/** How many of each in a run of ten minutes; of kills, those of either part of a kind. */
const IN_TEN_MINUTES: [Deed, Kind, number][] = [
  ['kill', 'api', 20],
  ['kill', 'worker', 20],
  ['kill', 'redis', 20],
  ['kill', 'postgres', 20],
  ['quit', 'postgres', 5],
  ['stop', 'api', 2],
  ['stop', 'worker', 4],
  ['stop', 'redis', 2],
  ['stop', 'postgres', 2],
  ['cut', 'worker', 10],
  ['lose', 'worker', 3],
  ['fill', 'redis', 4],
]
const TREE_IN_TEN_MINUTES: [Deed, Kind, number][] = [
  ['kill', 'tree', 20],
  ['stop', 'tree', 3],
]

/** Each kills both workers and Redis, on top of the kills above. */
const PILE_UPS = 4

const MINUTES = 10
/** Every fourth round or so has two faults. */
const PAIRED = 0.35

export function plan(parts: readonly Part[], minutes: number, random: () => number): Round[] {
  const counts = possible(parts)
  // A short run has each once, at least.
  const times = (count: number) => Math.max(1, Math.round((count * minutes) / MINUTES))
  const deck = counts.flatMap(([deed, kind, count]) =>
    Array.from({ length: times(count) }, () => draw(parts, deed, kind, random)),
  )
  shuffle(deck, random)
  const rounds: Round[] = parts.some(({ kind }) => kind === 'redis')
    ? Array.from({ length: times(PILE_UPS) }, () => pileUp(parts))
    : []
  for (;;) {
    const [fault] = deck.splice(-1)
    if (!fault) break
    // Not two of one part: there is nothing to stop in what is killed.
    const mate = random() < PAIRED ? deck.findLastIndex(({ part }) => part !== fault.part) : -1
    rounds.push([
      fault,
      ...(mate < 0 ? [] : deck.splice(mate, 1).map((late) => ({ ...late, after_ms: 800 * random() }))),
    ])
  }
  shuffle(rounds, random)
  return rounds
}

/** A disk is filled only where there is a way to. */
function possible(parts: readonly Part[]): [Deed, Kind, number][] {
  if (parts.some(({ kind }) => kind === 'tree')) return TREE_IN_TEN_MINUTES
  return IN_TEN_MINUTES.filter(([deed]) => deed !== 'fill' || parts.some(({ fill }) => fill))
}

/** Each deed once, and what piled up. */
export function shortPlan(parts: readonly Part[], random: () => number): Round[] {
  // npm start has but one part.
  if (parts.some(({ kind }) => kind === 'tree')) return [[draw(parts, 'kill', 'tree', random)]]
  const rounds = possible(parts)
    .filter(([deed, kind]) => deed !== 'lose' && (deed !== 'stop' || kind === 'worker'))
    .map(([deed, kind]) => {
      const fault = draw(parts, deed, kind, random)
      // Longer than the lock of a job: the worker wakes up after its work was given away.
      return [{ ...fault, away_ms: deed === 'stop' ? 7000 : Math.min(fault.away_ms, 1000) }]
    })
  return [...rounds, pileUp(parts)]
}

/** For services that are wrong: what piled up is to be lost, and what a worker had in hand. */
export function controlPlan(parts: readonly Part[]): Round[] {
  return [pileUp(parts), pileUp(parts)]
}

/** Both workers go, work piles up, then Redis goes: what was accepted is nowhere else by then. */
function pileUp(parts: readonly Part[]): Round {
  return parts
    .filter(({ kind }) => kind === 'worker' || kind === 'redis')
    .map(({ name, kind }) => ({
      deed: 'kill',
      part: name,
      kind,
      ...(kind === 'redis' ? { after_ms: 1500, away_ms: 300 } : { after_ms: 0, away_ms: 3000 }),
    }))
}

function draw(parts: readonly Part[], deed: Deed, kind: Kind, random: () => number): Fault {
  const candidates = parts.filter((part) => part.kind === kind)
  const part = candidates[Math.floor(random() * candidates.length)]
  if (!part) throw new Error(`there is no ${kind}`)
  // A stop may outlast every lock and time-out there is; a supervisor starts what has ended within seconds.
  const away_ms = Math.round(deed === 'stop' ? 5000 + 35_000 * random() ** 2 : 200 + 2800 * random())
  return { deed, part: part.name, kind, after_ms: 0, away_ms }
}

function shuffle<T>(items: T[], random: () => number): void {
  for (let last = items.length - 1; last > 0; last--) {
    const other = Math.floor(random() * (last + 1))
    ;[items[last], items[other]] = [items[other] as T, items[last] as T]
  }
}

/** Does it, waits as long as it says, and undoes it. @returns when the part is back. */
export async function inject({ deed, after_ms, away_ms }: Fault, part: Part): Promise<void> {
  await sleep(after_ms)
  if (deed === 'stop') {
    await part.send('SIGSTOP')
    await sleep(away_ms)
    await part.send('SIGCONT')
  } else if (deed === 'cut') await part.proxy?.cutAnswer()
  else if (deed === 'lose') part.proxy?.lose()
  else {
    if (deed === 'fill') await part.fill?.()
    else await part.kill(deed === 'quit' ? 'SIGQUIT' : 'SIGKILL')
    await sleep(away_ms)
    await part.start()
  }
}
