/*
 * npm run chaos
 *
 * The service under load while its parts are killed, stopped, cut off and started again, from a seed that is printed;
 * afterwards every transfer that was acknowledged must be decided, once. `--minutes N` scales the number of faults (10:
 * 20 kills of each kind of part), `--seed N` repeats a plan, `--embedded` does it to `npm start` as a whole, and
 * `--control` to services that are wrong on purpose, which the same checker must find out.
 *
 * Next: run.ts.
 */
import { parseArgs } from 'node:util'
import { z } from 'zod'
import { machine, saveResult } from '../../bench/report.ts'
import { controlPlan, plan } from './fault.ts'
import { openStage, openTree, type Sabotage } from './part.ts'
import { misses, RECOVERY_BAR_MS, report, rows, totals } from './report.ts'
import { createSightings, type Run, type RunOptions, run } from './run.ts'

const FULL_MINUTES = 10
const RATE = 250

const stopping = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => stopping.abort())

const say = (line: string) => console.log(`  ${line}`)

async function runOn(
  where: { embedded?: boolean; sabotage?: Sabotage },
  options: Pick<RunOptions, 'plan' | 'seed'>,
): Promise<Run> {
  const sightings = createSightings()
  const see = (worker: string) => sightings.see(worker, performance.now())
  const stage = where.embedded ? await openTree() : await openStage(see, where.sabotage)
  if (!stage.parts.some(({ fill }) => fill)) say('no full disk: that takes a Redis apart and prlimit')
  try {
    const onRound = (done: number, of: number) => done % 10 === 0 && console.log(`${done} of ${of} rounds`)
    return await run({ ...options, stage, rate: RATE, say, onRound, signal: stopping.signal }, sightings)
  } finally {
    await stage.stop()
  }
}

/** @returns whether the checker found out both. */
async function control(seed: number): Promise<boolean> {
  let caught = true
  for (const sabotage of ['forgetful Redis', 'hasty worker'] as const) {
    console.log(`control, with a ${sabotage}`)
    const found = await runOn({ sabotage }, { plan: controlPlan, seed })
    console.log(report(found))
    caught &&= found.lost > 0
    console.log(found.lost > 0 ? `the checker found ${found.lost} lost, as it must` : 'THE CHECKER FOUND NOTHING')
  }
  return caught
}

async function main(): Promise<boolean> {
  const { values } = parseArgs({
    options: {
      minutes: { type: 'string', default: String(FULL_MINUTES) },
      seed: { type: 'string', default: String(Math.floor(Math.random() * 2 ** 31)) },
      embedded: { type: 'boolean', default: false },
      control: { type: 'boolean', default: false },
    },
  })
  const minutes = z.coerce.number().positive().parse(values.minutes)
  const seed = z.coerce.number().int().parse(values.seed)
  console.log(`seed ${seed}`)
  if (values.control) return await control(seed)

  const { embedded } = values
  const done = await runOn({ embedded }, { plan: (parts, random) => plan(parts, minutes, random), seed })
  console.log(report(done))
  const faults = misses(done)
  if (stopping.signal.aborted) return false
  if (minutes >= FULL_MINUTES) {
    const part = embedded ? 'chaos-embedded' : 'chaos'
    const workload = `${RATE} transfers/s, seed ${seed}, recovery within ${RECOVERY_BAR_MS / 1000} s`
    const file = await saveResult({ part, workload, rows: [totals(done), ...rows(done)], faults }, machine({}))
    console.log(`written to ${file}`)
  }
  return faults.length === 0
}

process.exitCode = (await main()) ? 0 : 1
process.exit()
