/*
 * The short form of `npm run chaos`: each fault once, on separate processes under load, and the checker's own control.
 */
import test from 'ava'
import { controlPlan, shortPlan } from './chaos/fault.ts'
import { openStage, openTree, type Sabotage } from './chaos/part.ts'
import { createSightings, type Run, type RunOptions, run } from './chaos/run.ts'
import { backends, seed } from './support/harness.ts'

const RATE = 60

async function runOn(open: typeof openStage, plan: RunOptions['plan'], sabotage?: Sabotage): Promise<Run> {
  const sightings = createSightings()
  const stage = await open((worker) => sightings.see(worker, performance.now()), sabotage)
  try {
    return await run({ stage, seed, plan, rate: RATE, say: () => {} }, sightings)
  } finally {
    await stage.stop()
  }
}

const show = ({ acknowledged, repeated, lost, doubled, recoveries }: Run) =>
  `SEED=${seed}: ${acknowledged} acknowledged, ${repeated} repeated, ${lost} lost, ${doubled} doubled; at work again: ` +
  recoveries.map(({ fault, recovery_ms }) => `${fault.part} ${fault.deed} ${recovery_ms} ms`).join(', ')

if (backends.includes('redis')) {
  test.serial('parts that are killed, stopped and cut off under load lose nothing and double nothing', async (t) => {
    t.timeout(300_000)
    const found = await runOn(openStage, shortPlan)
    t.log(show(found))
    t.deepEqual(found.faults, [])
    t.true(found.acknowledged > 100)
    // Not within how long: that is for npm run chaos, on a machine that does nothing else.
    t.deepEqual(
      found.recoveries.filter(({ recovered }) => !recovered),
      [],
    )
  })

  for (const sabotage of ['forgetful Redis', 'hasty worker'] as const) {
    test(`the checker finds what a ${sabotage} loses`, async (t) => {
      t.timeout(300_000)
      const found = await runOn(openStage, (parts) => controlPlan(parts).slice(0, 1), sabotage)
      t.log(show(found))
      t.true(found.lost > 0)
      t.true(found.faults.some((fault) => fault.includes('acknowledged and never decided')))
    })
  }
}

test.serial('npm start, killed as a whole under load, loses nothing and doubles nothing', async (t) => {
  t.timeout(300_000)
  const found = await runOn(openTree, shortPlan)
  t.log(show(found))
  t.deepEqual(found.faults, [])
  t.true(found.acknowledged > 50)
})
