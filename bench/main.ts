/*
 * npm run bench
 *
 * Everything side by side, in one run, on one machine, so that ratios mean something. Each part says at the top of its
 * file what it does; each ends with the audit of its books, and the bench fails if they do not balance or if anything
 * accepted was lost. Results are in bench/results/, as JSON and as the charts that the README shows.
 */
import { parseArgs } from 'node:util'
import { audit, describeAudit } from '../src/db/audit.ts'
import { runBatches } from './batch.ts'
import { drawCharts } from './chart.ts'
import { killChildren } from './child.ts'
import { runBaselines } from './comparison.ts'
import { runContention } from './contention.ts'
import { goalRows } from './goal.ts'
import { closeGrown, type Grown } from './grown.ts'
import { runGrowth } from './growth.ts'
import { runHttp } from './http.ts'
import { runLimits } from './limit.ts'
import { type Load, startLoad } from './load.ts'
import { runMemory } from './memory.ts'
import { runReads } from './read.ts'
import { machine, type Result, saveResult, table } from './report.ts'
import { type Backend, dropDatabase, openStage, type Stage } from './stage.ts'
import { runUsers } from './user.ts'
import { SHAPE_NAMES, type Shape } from './workload.ts'

export type Options = {
  shape: Shape | undefined
  backend: Backend | undefined
  connections: number | undefined
  seconds: number | undefined
}

export type Bench = {
  stage: Stage
  load: Load
  /** Where the queue lives: Redis first, if there is one, then Postgres. */
  backends: Backend[]
  /** The ledger with a past, once a part has asked for it. */
  grown: Grown | undefined
  full: boolean
  options: Options
  say: (line: string) => void
  /** Audits a ledger that is done with, and deletes it. @returns what is wrong with it. */
  checkBooks: (databaseUrl: string) => Promise<string[]>
}

const PARTS: Record<string, (bench: Bench) => Promise<Result>> = {
  http: runHttp,
  batches: runBatches,
  baselines: runBaselines,
  limits: runLimits,
  users: runUsers,
  contention: runContention,
  growth: runGrowth,
  reads: runReads,
  memory: runMemory,
}

const USAGE = `npm run bench -- [options]
  --full                 everything, at length; without it, at most 5 minutes
  --only <part>,...      of ${Object.keys(PARTS).join(', ')}
  --shape <shape>        http, baselines: one of ${SHAPE_NAMES.join(', ')}
  --backend <backend>    redis or postgres
  --connections <count>  http, batches, baselines: how many
  --seconds <count>      length of each run
  (with one of these four, results are shown, not saved)
Environment: BENCH_DATABASE_URL (a Postgres to use, as a user who may create databases), BENCH_DIR (where data lies
meanwhile); settings of the service, such as BATCH_SIZE, reach it.`

async function main(): Promise<void> {
  const { help, full, names, options } = readArguments()
  if (help) return console.log(USAGE)
  const began_ms = performance.now()
  const say = (line: string) => {
    const passed_s = Math.round((performance.now() - began_ms) / 1000)
    console.log(`${String(Math.floor(passed_s / 60)).padStart(2)}:${String(passed_s % 60).padStart(2, '0')}  ${line}`)
  }
  const stage = await openStage(say)
  const stopOnSignal = () => {
    // Connections break while everything is being stopped: no news, and no reason to leave the rest behind.
    for (const event of ['uncaughtException', 'unhandledRejection']) process.on(event, () => undefined)
    killChildren()
    void stage.stop().finally(() => process.exit(1))
  }
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, stopOnSignal)
  try {
    const load = await startLoad()
    const backends = (['redis', 'postgres'] as const).filter(
      (backend) => (stage.redis || backend !== 'redis') && backend === (options.backend ?? backend),
    )
    const bench: Bench = {
      stage,
      load,
      backends,
      grown: undefined,
      full,
      options,
      say,
      checkBooks: (databaseUrl) => checkBooks(databaseUrl, stage, say),
    }
    const faults = await runParts(names, bench)
    await load.stop()
    if (faults.length === 0) return say('done: all books balance, nothing was lost')
    for (const fault of faults) console.error(`FAULT ${fault}`)
    process.exitCode = 1
  } finally {
    killChildren()
    await stage.stop()
  }
}

/** @returns what must not be and was. */
async function runParts(names: readonly string[], bench: Bench): Promise<string[]> {
  const { stage, options, say } = bench
  // A run cut short or narrowed down is for whoever tunes, not for the records.
  const isTrial = Object.values(options).some((value) => value !== undefined)
  const on = machine(stage.versions)
  const described = Object.entries(on).map(([name, value]) => `${name} ${value}`)
  say(`on ${described.join(', ')}`)
  const results: Result[] = []
  const faults: string[] = []
  for (const [position, name] of names.entries()) {
    say(`${name} (part ${position + 1} of ${names.length})`)
    const result = await (PARTS[name] as (bench: Bench) => Promise<Result>)(bench)
    results.push(result)
    faults.push(...result.faults.map((fault) => `${name}: ${fault}`))
    const file = isTrial ? 'not saved' : await saveResult(result, on)
    console.log(`\n${table(result.rows)}\n\n${file}\n`)
  }
  faults.push(...(await closeGrown(bench)))
  const charts = isTrial ? [] : await drawCharts(results)
  if (charts.length > 0) say(`drawn: ${charts.join(', ')}`)
  const noise = othersShare(results)
  if (noise > 0.1) {
    say(`other programs used up to ${Math.round(100 * noise)} % of a processor meanwhile: figures are too low`)
  }
  const goals = goalRows(results)
  if (goals.length > 0) console.log(`\n${table(goals)}\n`)
  return faults
}

function readArguments(): { help: boolean; full: boolean; names: string[]; options: Options } {
  const { values } = parseArgs({
    options: {
      full: { type: 'boolean', default: false },
      only: { type: 'string' },
      shape: { type: 'string' },
      backend: { type: 'string' },
      connections: { type: 'string' },
      seconds: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  })
  const { help, full, only, shape, backend, connections, seconds } = values
  const names = only?.split(',') ?? Object.keys(PARTS)
  for (const name of names) oneOf('--only', Object.keys(PARTS), name)
  const options = {
    shape: oneOf('--shape', SHAPE_NAMES, shape),
    backend: oneOf('--backend', ['redis', 'postgres'] as const, backend),
    connections: connections === undefined ? undefined : Number(connections),
    seconds: seconds === undefined ? undefined : Number(seconds),
  }
  return { help, full, names, options }
}

async function checkBooks(databaseUrl: string, stage: Stage, say: (line: string) => void): Promise<string[]> {
  const result = await audit(databaseUrl)
  await dropDatabase(stage, databaseUrl)
  const decided = result.posted + result.rejected
  if (result.ok) {
    say(`the books balance: ${decided.toLocaleString('en')} transfers, ${result.checks.length} checks`)
    return []
  }
  console.error(describeAudit(result))
  return ['the books do not balance']
}

/** The most that programs besides the bench used in any run, as a share of one processor. */
function othersShare(results: readonly Result[]): number {
  const shares = results.flatMap(({ rows }) =>
    rows.map(({ cpu }) => (typeof cpu === 'object' && cpu !== null ? (cpu.others ?? 0) : 0)),
  )
  return Math.max(0, ...shares)
}

function oneOf<T extends string>(option: string, allowed: readonly T[], given: string | undefined): T | undefined {
  const found = allowed.find((value) => value === given)
  if (given !== undefined && found === undefined) throw new Error(`${option} ${given}: one of ${allowed.join(', ')}`)
  return found
}

await main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error)
  process.exitCode = 1
})
