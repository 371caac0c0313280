/*
 * Goals
 *
 * What the service is meant to reach on two cores shared by everything, held against the results of one run. Not
 * reaching one is no fault of the run: the bench says so and passes.
 */
import type { Result, Row } from './report.ts'

/** The value of the first row of a part in which the given columns have the given values; NaN if there is none. */
type Find = (part: string, match: Row, column: string) => number

type Goal = { goal: string; at_least?: number; at_most?: number; measure: (find: Find) => number }

const uniform = { backend: 'redis', connections: 64, shape: 'uniform' }
const posted = (find: Find, match: Row) => find('http', match, 'posted_per_s')

/** What a part posted at its best: with 64 or 256 connections. */
const best = (find: Find, part: string, match: Row) =>
  Math.max(
    ...[64, 256].map((connections) => find(part, { ...match, connections }, 'posted_per_s')).filter(Number.isFinite),
  )

const GOALS: Goal[] = [
  {
    goal: 'single POSTs, Redis, uniform, 64 or 256 connections: posted/s',
    at_least: 15_000,
    measure: (find) => best(find, 'http', uniform),
  },
  {
    goal: '... times locked_rows at its best',
    at_least: 4,
    measure: (find) =>
      best(find, 'http', uniform) / best(find, 'baselines', { baseline: 'locked_rows', shape: 'uniform' }),
  },
  {
    // Like with like: the baseline is as fast as it is on a new ledger for minutes only.
    goal: 'with 1,000,000 recorded, times row_triggers at its best',
    at_least: 15,
    measure: (find) =>
      best(find, 'growth', { recorded: 1e6, shape: 'uniform' }) /
      best(find, 'baselines', { baseline: 'row_triggers_grown', shape: 'uniform' }),
  },
  ...['hot_source', 'hot_destination', 'hot_pair', 'opposing_pairs'].map(
    (shape): Goal => ({
      goal: `${shape}: times uniform`,
      at_least: 0.9,
      measure: (find) => posted(find, { ...uniform, shape }) / posted(find, uniform),
    }),
  ),
  {
    goal: 'embedded default, uniform, 64 or 256 connections: posted/s',
    at_least: 8000,
    measure: (find) => best(find, 'http', { ...uniform, backend: 'postgres' }),
  },
  {
    goal: 'batches of 500, Redis, uniform: posted/s',
    at_least: 30_000,
    measure: (find) => find('batches', { backend: 'redis', shape: 'uniform' }, 'posted_per_s'),
  },
  {
    goal: '... times bare inserts',
    at_least: 0.5,
    measure: (find) =>
      find('batches', { backend: 'redis', shape: 'uniform' }, 'posted_per_s') /
      find('limits', { limit: 'inserts of 500' }, 'per_s'),
  },
  {
    goal: 'balance reads/s, 1,000 accounts',
    at_least: 15_000,
    measure: (find) => find('reads', { read: 'balance, 1,000 accounts' }, 'per_s'),
  },
  {
    goal: 'balance after 10 received, times after 10^6',
    at_most: 1.2,
    measure: (find) =>
      find('reads', { read: 'balance, 10 received' }, 'per_s') /
      find('reads', { read: 'balance, 10^6 received' }, 'per_s'),
  },
  ...[
    { recorded: 1e6, times: 0.8 },
    { recorded: 1e7, times: 0.6 },
  ].map(
    ({ recorded, times }): Goal => ({
      goal: `posted/s with ${recorded.toLocaleString('en')} recorded, times 10,000`,
      at_least: times,
      measure: (find) =>
        find('growth', { recorded, shape: 'uniform', connections: 64 }, 'posted_per_s') /
        find('growth', { recorded: 1e4, shape: 'uniform', connections: 64 }, 'posted_per_s'),
    }),
  ),
  {
    goal: '16 posting on 50 accounts, times one alone',
    at_least: 0.5,
    measure: (find) =>
      find('contention', { callers: 16 }, 'decided_per_s') / find('contention', { callers: 1 }, 'decided_per_s'),
  },
  ...['balance', 'transfer, accepted'].flatMap((request): Goal[] => [
    { goal: `mixed user, ${request}: p50 ms`, at_most: 5, measure: (find) => find('users', { request }, 'ms_p50') },
    { goal: `mixed user, ${request}: p99 ms`, at_most: 30, measure: (find) => find('users', { request }, 'ms_p99') },
  ]),
  {
    goal: 'mixed user, transfer, posted: p99 ms',
    at_most: 60,
    measure: (find) => find('users', { request: 'transfer, posted' }, 'ms_p99'),
  },
  {
    goal: 'API and worker after 10^6 transfers: MB',
    at_most: 300,
    measure: (find) => find('memory', { part: 'api' }, 'mb') + find('memory', { part: 'worker' }, 'mb'),
  },
  { goal: 'Redis after 10^6 transfers: MB', at_most: 64, measure: (find) => find('memory', { part: 'redis' }, 'mb') },
]

/** Those that this run measured. */
export function goalRows(results: readonly Result[]): Row[] {
  const find: Find = (part, match, column) => {
    const rows = results.find((result) => result.part === part)?.rows ?? []
    const row = rows.find((candidate) => Object.entries(match).every(([name, value]) => candidate[name] === value))
    return Number(row?.[column] ?? Number.NaN)
  }
  return GOALS.flatMap(({ goal, at_least, at_most, measure }) => {
    const measured = measure(find)
    if (!Number.isFinite(measured)) return []
    const reached =
      measured >= (at_least ?? Number.NEGATIVE_INFINITY) && measured <= (at_most ?? Number.POSITIVE_INFINITY)
    const bound = at_least === undefined ? `at most ${at_most}` : `at least ${at_least}`
    return [
      { goal, bound, measured: Number(measured.toPrecision(measured < 100 ? 3 : 8)), reached: reached ? 'yes' : 'NO' },
    ]
  })
}
