/*
 * Whoever waits for a decision hears of it soon, also when looking for it took long just before: because the database hung,
 * or because this process was stopped meanwhile.
 */
import { randomUUID } from 'node:crypto'
import test from 'ava'
import { createDecisions } from '../src/api/decision.ts'
import { openPool } from '../src/db/pool.ts'
import { postTransfers } from '../src/db/transfer.ts'
import { captureLog, createDatabase, until } from './support/harness.ts'
import { startProxy } from './support/proxy.ts'

/** Longer than a query may hang before it is given up (0.9 s); thrice that is longer than all that is waited here. */
const HANGS_MS = 1500
const WAIT_S = 1.5

test('a look that took long does not keep those who wait from the next', async (t) => {
  const database = await createDatabase()
  t.teardown(database.drop)
  const proxy = await startProxy(database.url)
  t.teardown(proxy.close)
  const log = captureLog([])
  const [pool, direct] = await Promise.all(
    [proxy.url, database.url].map((databaseUrl) => openPool({ databaseUrl, connections: 2, timeout_ms: 900, log })),
  )
  if (!pool || !direct) throw new Error('no pool')
  t.teardown(() => Promise.all([pool.end(), direct.end()]))
  const decisions = createDecisions(pool)
  t.teardown(decisions.release)

  // Somebody waits all the time, so that there is always somebody to look for.
  void decisions.wait(randomUUID(), 30)
  proxy.stall()
  const began_ms = performance.now()
  await until(() => performance.now() - began_ms > HANGS_MS)
  await proxy.restore()

  const transfer = { id: randomUUID(), source: randomUUID(), destination: randomUUID(), amount: '1' }
  const decided = decisions.wait(transfer.id, WAIT_S)
  await postTransfers(direct, [transfer])
  t.like(await decided, { id: transfer.id, status: 'rejected', reason: 'unknown_source' })
})
