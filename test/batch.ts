/*
 * Natural batching: what arrives while a run is under way goes with the next one, all of it, in order, and everyone gets
 * an answer of their own.
 */
import test from 'ava'
import { createBatcher, OverloadError } from '../src/batch.ts'
import { until } from './support/harness.ts'

/** A batcher whose runs last until they are told to end; what each run was given is kept. */
function createStage(options: { size: number; limit?: number; weigh?: (item: string) => number }) {
  const runs: { items: string[]; end: (error?: Error) => void }[] = []
  const batcher = createBatcher({
    limit: 100,
    ...options,
    run: (items: string[]) =>
      new Promise<string[]>((resolve, reject) => {
        const end = (error?: Error) => (error ? reject(error) : resolve(items.map((item) => item.toUpperCase())))
        runs.push({ items, end })
      }),
  })
  /** Waits for the nth run to begin. */
  const run = (n: number) => until(() => runs[n], { interval_ms: 0 })
  return { ...batcher, run, count: () => runs.length }
}

test('one alone is run at once', async (t) => {
  const { push, run, waiting } = createStage({ size: 10 })
  const answer = push('a')
  t.is(waiting(), 1)
  const { items, end } = await run(0)
  t.deepEqual(items, ['a'])
  t.is(waiting(), 0)
  end()
  t.is(await answer, 'A')
})

test('how long the first in line has waited is known, and ends when it is taken', async (t) => {
  const { push, run, waited } = createStage({ size: 1 })
  const answers = [push('a')]
  const { end } = await run(0)
  t.is(waited(), 0, 'what is run does not wait')
  answers.push(push('b'))
  await until(() => waited() > 30)
  answers.push(push('c'))
  t.true(waited() > 30, 'that of the first, not of the last')
  end()
  const second = await run(1)
  t.true(waited() > 0)
  second.end()
  const third = await run(2)
  t.is(waited(), 0)
  third.end()
  t.deepEqual(await Promise.all(answers), ['A', 'B', 'C'])
})

test('what arrives in one turn of the event loop is run together', async (t) => {
  const { push, run } = createStage({ size: 10 })
  const answers = Promise.all(['a', 'b', 'c'].map(push))
  const { items, end } = await run(0)
  t.deepEqual(items, ['a', 'b', 'c'])
  end()
  t.deepEqual(await answers, ['A', 'B', 'C'])
})

test('what arrives during a run waits for its end and goes with the next, in the order of arrival', async (t) => {
  const { push, run, count, waiting } = createStage({ size: 10 })
  const first = push('a')
  const { end } = await run(0)
  const rest = [push('b')]
  await new Promise(setImmediate)
  rest.push(push('c'))
  await new Promise(setImmediate)
  t.is(count(), 1, 'one run at a time')
  t.is(waiting(), 2)
  end()
  const second = await run(1)
  t.deepEqual(second.items, ['b', 'c'])
  t.is(await first, 'A', 'whose run has ended does not wait for the next')
  second.end()
  t.deepEqual(await Promise.all(rest), ['B', 'C'])
})

test('no batch weighs more than its size, and the rest goes with the one after', async (t) => {
  const { push, run } = createStage({ size: 3 })
  const answers = Promise.all(['a', 'b', 'c', 'd', 'e', 'f', 'g'].map(push))
  for (const [n, expected] of [['a', 'b', 'c'], ['d', 'e', 'f'], ['g']].entries()) {
    const { items, end } = await run(n)
    t.deepEqual(items, expected)
    end()
  }
  t.deepEqual(await answers, ['A', 'B', 'C', 'D', 'E', 'F', 'G'])
})

test('items count for what they weigh; one too heavy for any batch goes alone; none overtakes another', async (t) => {
  const { push, run, waiting } = createStage({ size: 4, weigh: (item) => item.length })
  const answers = Promise.all(['aa', 'bb', 'c', 'dddd', 'eeeeee', 'f', 'ggg', 'h'].map(push))
  t.is(waiting(), 20)
  const expected: [items: string[], left: number][] = [
    [['aa', 'bb'], 16],
    [['c'], 15],
    [['dddd'], 11],
    [['eeeeee'], 5],
    [['f', 'ggg'], 1],
    [['h'], 0],
  ]
  for (const [n, [batch, left]] of expected.entries()) {
    const { items, end } = await run(n)
    t.deepEqual(items, batch)
    t.is(waiting(), left)
    end()
  }
  t.is((await answers).length, 8)
})

test('a run that fails fails for all in it and all who wait, and the next one begins afresh', async (t) => {
  const { push, run, count, waiting } = createStage({ size: 2 })
  const doomed = ['a', 'b', 'c', 'd', 'e'].map(push)
  const { items, end } = await run(0)
  t.deepEqual(items, ['a', 'b'])
  end(new Error('away'))
  for (const answer of doomed) await t.throwsAsync(answer, { message: 'away' })
  t.is(waiting(), 0)
  t.is(count(), 1, 'nothing was run for those who waited')

  const answer = push('f')
  const second = await run(1)
  t.deepEqual(second.items, ['f'])
  second.end()
  t.is(await answer, 'F')
})

test('a run that throws before it promises anything fails like any other', async (t) => {
  const { push } = createBatcher<string, string>({
    size: 2,
    limit: 2,
    run: () => {
      throw new Error('at once')
    },
  })
  await t.throwsAsync(push('a'), { message: 'at once' })
  await t.throwsAsync(push('b'), { message: 'at once' })
})

test('an answer that pushes again gets another run', async (t) => {
  const { push, run } = createStage({ size: 2 })
  const chained = push('a').then((answer) => push(`${answer}b`))
  const first = await run(0)
  first.end()
  const second = await run(1)
  t.deepEqual(second.items, ['Ab'])
  second.end()
  t.is(await chained, 'AB')
})

test('what would wait above the limit is turned away at once, and what waits already is run', async (t) => {
  const { push, run, waiting } = createStage({ size: 2, limit: 4, weigh: (item) => item.length })
  const first = push('aa')
  const { end } = await run(0)
  const waits = [push('bb'), push('c')]
  await t.throwsAsync(push('dd'), { instanceOf: OverloadError })
  t.is(waiting(), 3, 'it left nothing behind')
  waits.push(push('e'))
  await t.throwsAsync(push('f'), { instanceOf: OverloadError })
  end()
  t.is(await first, 'AA')
  for (const n of [1, 2]) (await run(n)).end()
  t.deepEqual(await Promise.all(waits), ['BB', 'C', 'E'])
  const later = push('gggg')
  const last = await run(3)
  last.end()
  t.is(await later, 'GGGG', 'and there is room again')
})
