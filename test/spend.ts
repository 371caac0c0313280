/*
 * A hundred clients spend the same last 100 at once, through two APIs and two workers: never more than was there is
 * spent, no balance is ever seen below zero, and nobody is refused whose transfer would still have fitted at its turn.
 *
 * The judge is support/serial.ts; the same race through doors with one safeguard taken out must be found out by it.
 */
import assert from 'node:assert/strict'
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import type { Decision } from '../src/transfer.ts'
import { balanced, copyFunction, units } from './support/books.ts'
import { createClient } from './support/client.ts'
import {
  type Backend,
  backends,
  parameters,
  type Service,
  startService,
  until,
  useDatabase,
} from './support/harness.ts'
import { createSerial } from './support/serial.ts'

const CLIENTS = 100
const FUNDS = '100'

/** Two APIs, two workers, one ledger and one queue. */
async function start(t: ExecutionContext, backend: Backend, database: string): Promise<[Service, Service]> {
  const one = await startService({ backend, database })
  t.teardown(() => one.stop())
  const { QUEUE_NAME } = one.settings
  const two = await startService({ backend, database, settings: { QUEUE_NAME } })
  t.teardown(() => two.stop())
  return [one, two]
}

/** @returns what was spent. @throws AssertionError where no serial order explains the decisions. */
async function spend(services: Service[], amounts: string[]): Promise<bigint> {
  const clients = services.map(({ url }) => createClient(url))
  const client = (n: number) => clients[n % clients.length] as (typeof clients)[number]
  const serial = createSerial()
  const [source, destination] = [await client(0).open(FUNDS), await client(0).open()]
  for (const id of [source, destination]) serial.open(id)
  const { body } = await client(0).get<{ transfers: (Decision & { account: string })[] }>(
    `/accounts/${source}/transfers`,
  )
  serial.settle(body.transfers.map((line) => ({ ...line, source: line.account, destination: source })))

  let spending = true
  let lowest = units(FUNDS)
  const watch = async () => {
    while (spending) {
      const { body } = await client(1).get(`/accounts/${source}/balance`)
      const seen = units(body.balance ?? '')
      if (seen < lowest) lowest = seen
    }
  }
  const watching = watch()
  // Under its key, a request that was not decided in the time that it waits is repeated safely.
  const pay = (amount: string, n: number) =>
    until(async () => {
      const headers = { 'Idempotency-Key': `client ${n}`, Prefer: 'wait=20' }
      const { status, body } = await client(n).post('/transfers', { source, destination, amount }, headers)
      return status === 200 && body
    })
  const work = amounts.map(pay)
  const decided = await Promise.all(work).finally(() => {
    spending = false
    return watching
  })

  serial.settle(decided as Decision[])
  const [left, paid] = [serial.balance(source), serial.balance(destination)]
  assert.ok(left >= 0n && lowest >= 0n, `below zero: ${left} in the end, ${lowest} on the way`)
  for (const [account, expected] of [
    [source, left],
    [destination, paid],
  ] as const) {
    const { body } = await client(1).get(`/accounts/${account}/balance`)
    assert.equal(units(body.balance), expected, `the balance of ${account}`)
  }
  return paid
}

const EVEN = Array.from({ length: CLIENTS }, () => '2.5')

/** Of a client's own size each, far more together than there is. */
const sizes = fc.array(
  fc.oneof(
    fc.constantFrom('1', '2.5', '5', '10', '0.01'),
    fc.integer({ min: 1, max: 4000 }).map((cents) => (cents / 100).toFixed(2)),
    fc.integer({ min: 1, max: 10 ** 9 }).map((n) => `${Math.floor(n / 1e8)}.${String(n % 1e8).padStart(8, '0')}`),
  ),
  { minLength: CLIENTS, maxLength: CLIENTS },
)

for (const backend of backends) {
  test.serial(`${backend}: a hundred clients spend the last 100 at once, and no more`, async (t) => {
    const { url } = await useDatabase(t)
    const services = await start(t, backend, url)
    // All of it, to the last cent, when every size fits.
    t.is(
      await spend(
        services,
        Array.from({ length: CLIENTS }, () => '2.5'),
      ),
      units(FUNDS),
    )
    t.is(
      await spend(
        services,
        Array.from({ length: CLIENTS }, (_, n) => (n ? '100.00' : '100.00000001')),
      ),
      units(FUNDS),
    )
    const { seed } = parameters(t, 2)
    for (const amounts of fc.sample(sizes, { seed, numRuns: 2 })) {
      const spent = await spend(services, amounts)
      t.true(spent > 0n && spent <= units(FUNDS))
    }
    await balanced(t, url)
  })
}

const SLOW = ['  INSERT INTO transfer (', '  PERFORM pg_sleep(0.05);\n  INSERT INTO transfer ('] as const

const MISTAKES: Record<string, readonly (readonly [right: string, wrong: string])[]> = {
  'makes no claim': [['WHERE pg_try_advisory_xact_lock(uuid_hash_extended(source, 0))', ''], SLOW],
  'does not look at what was spent': [['chain.spent + amounts[n] > chain.received', 'amounts[n] > chain.received']],
  'keeps the last of the money back': [
    ['chain.spent + amounts[n] > chain.received', 'chain.spent + amounts[n] >= chain.received'],
  ],
  'refuses who comes after a refusal': [
    ["outcomes[n] := 'insufficient_funds';", "outcomes[n] := 'insufficient_funds'; chain.received := 0;"],
  ],
}

for (const [what, changes] of Object.entries(MISTAKES)) {
  test.serial(`a door that ${what} is found out`, async (t) => {
    const { url, connect } = await useDatabase(t)
    const admin = connect()
    await copyFunction(admin, 'ledger.post_transfers', 'ledger.post_transfers', changes)
    await admin.query(
      'ALTER TABLE ledger.transfer DROP CONSTRAINT transfer_pkey, DROP CONSTRAINT transfer_id_source_key',
    )
    await admin.query('CREATE INDEX ON ledger.transfer (source, index); CREATE INDEX ON ledger.transfer (id)')
    const services = await start(t, 'postgres', url)
    const { seed } = parameters(t, 1)
    const races = fc.sample(sizes, { seed, numRuns: 50 })
    races.splice(1, 0, EVEN) // spends the very last of it
    const race = () =>
      spend(services, races.shift() as string[]).catch((error: unknown) => {
        if (error instanceof assert.AssertionError) return error.message
        throw error
      })
    const fault = await until(async () => {
      const verdict = await race()
      return typeof verdict === 'string' && verdict
    })
    t.log(fault)
    t.pass()
  })
}
