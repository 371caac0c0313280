/*
 * The ledger against a model of it: the same random batches go to both, and both must say the same of every request, of
 * every balance now, and of every balance at every moment there has been.
 *
 * The model is the whole rule book in forty lines, in memory, one request after the other. The door must not be seen to
 * differ from it, however the requests are cut into batches, whatever is repeated, and whenever the books are closed.
 */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import anyTest, { type TestFn } from 'ava'
import fc from 'fast-check'
import type pg from 'pg'
import { SERVICE_ACCOUNT, type Transfer, transferId } from '../src/transfer.ts'
import { balanced, balances, chain, copyFunction, post, units } from './support/books.ts'
import { createDatabase, type Database, openAdmin, parameters, until } from './support/harness.ts'

const test = anyTest as TestFn<{ database: Database; db: pg.Pool }>

test.before(async (t) => {
  const database = await createDatabase()
  t.context = { database, db: openAdmin(database.url, 1) }
})

test.after.always(async (t) => {
  const { database, db } = t.context
  await db.end()
  await database.drop()
})

type Decided = Transfer & { spent: bigint; reason: string | null }
type Book = { overdraft: boolean; received: bigint; spent: bigint }

function createModel() {
  const open = new Map<string, Book>()
  const chains = new Map<string, Decided[]>()
  const decided = new Map<string, string>()

  /** Money that comes in during a batch can be spent from the next one on. */
  function decide(batch: readonly Transfer[]): string[] {
    const received = new Map([...open].map(([id, book]) => [id, book.received]))
    return batch.map((transfer) => {
      const name = `${transfer.source} ${transfer.id}`
      const first = decided.get(name)
      if (first !== undefined) return first
      const outcome = judge(transfer, received.get(transfer.source) ?? 0n)
      record(transfer, outcome)
      decided.set(name, outcome)
      return outcome
    })
  }

  function judge({ source, destination, amount }: Transfer, received: bigint): string {
    const book = open.get(source)
    if (!book) return 'unknown_source'
    if (!open.has(destination)) return 'unknown_destination'
    if (!book.overdraft && book.spent + units(amount) > received) return 'insufficient_funds'
    return 'posted'
  }

  function record(transfer: Transfer, outcome: string): void {
    const [book, credited] = [open.get(transfer.source), open.get(transfer.destination)]
    if (outcome === 'posted' && book && credited) {
      book.spent += units(transfer.amount)
      credited.received += units(transfer.amount)
    }
    const chain = chains.get(transfer.source) ?? []
    chains.set(transfer.source, chain)
    chain.push({ ...transfer, spent: book?.spent ?? 0n, reason: outcome === 'posted' ? null : outcome })
  }

  return {
    decide,
    open: (id: string, overdraft: boolean) => open.set(id, { overdraft, received: 0n, spent: 0n }),
    balance: (id: string): bigint | undefined => {
      const book = open.get(id)
      return book && book.received - book.spent
    },
    chain: (id: string): Decided[] => chains.get(id) ?? [],
  }
}

// Eight accounts: one pays with an overdraft, two are never opened, and low numbers are likelier, so that they are hot.
const ACCOUNTS = 8
const OVERDRAFT = 3
const UNOPENED = [6, 7]

const account = fc.oneof(fc.constantFrom(0, 1), fc.nat(ACCOUNTS - 1))

const amount = fc
  .tuple(fc.nat(60), fc.constantFrom('', '.5', '.25', '.00', '.00000001', '.99999999'))
  .map(([whole, fraction]) => `${whole}${fraction}`)
  .filter((text) => units(text) > 0n)

// Few keys, so that ids come again, in the same batch or a later one, with the same payload or another.
const asked = fc
  .record({ source: account, destination: account, amount, key: fc.nat(30) })
  .filter(({ source, destination }) => source !== destination)

type Asked = typeof asked extends fc.Arbitrary<infer T> ? T : never

type Step =
  | { kind: 'post'; batch: Asked[] }
  | { kind: 'fund'; to: number; amount: string }
  | { kind: 'close'; accounts: number[] }

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('post' as const),
      batch: fc.array(asked, { minLength: 1, maxLength: 25 }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('fund' as const), to: account, amount }) },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant('close' as const), accounts: fc.uniqueArray(account, { minLength: 1 }) }),
  },
)

const steps = fc.array(step, { minLength: 5, maxLength: 25 })

/** What the runs had in them. */
type Seen = { outcomes: Set<string>; repeats: number; closed: number; moments: number }

/** One run on accounts of its own. @throws AssertionError where ledger and model differ. */
async function agree(db: pg.Pool, steps: Step[], seen: Seen): Promise<void> {
  const ids = Array.from({ length: ACCOUNTS }, () => randomUUID() as string)
  const id = (n: number) => ids[n] as string
  const model = createModel()
  model.open(SERVICE_ACCOUNT, true)
  for (const n of ids.keys()) {
    if (UNOPENED.includes(n)) continue
    await db.query('SELECT ledger.open_account($1, NULL, $2)', [id(n), n === OVERDRAFT])
    model.open(id(n), n === OVERDRAFT)
  }
  const modelled = () => ids.map((id) => model.balance(id))
  const history: { moment: string; balances: (bigint | undefined)[] }[] = []
  const asked = new Set<string>()

  for (const step of steps) {
    if (step.kind === 'close') {
      const { rows } = await db.query('SELECT ledger.close_books($1) AS closed', [step.accounts.map(id)])
      seen.closed += rows[0].closed
    } else {
      const batch = step.kind === 'post' ? step.batch.map((one) => keyed(one, id)) : [funding(step, id)]
      const outcomes = model.decide(batch)
      assert.deepEqual(await post(db, batch), outcomes)
      for (const outcome of outcomes) seen.outcomes.add(outcome)
      for (const { id } of batch) {
        if (asked.has(id)) seen.repeats += 1
        asked.add(id)
      }
    }
    const found = await balances(db, ids)
    assert.deepEqual(
      found.map((text) => units(text)),
      modelled(),
      step.kind,
    )
    const { rows } = await db.query('SELECT clock_timestamp()::text AS moment')
    history.push({ moment: rows[0].moment, balances: modelled() })
  }

  for (const source of ids) {
    const found = await chain(db, source)
    assert.deepEqual(
      found.map((row) => ({ ...row, spent: units(String(row.spent)) })),
      model.chain(source).map(({ source: _, ...row }, index) => ({ index, ...row })),
    )
  }
  for (const { moment, balances } of history) {
    const { rows } = await db.query<{ balances: (string | null)[] }>(
      'SELECT array(SELECT ledger.balance_at(account, $1)::text FROM unnest($2::uuid[]) WITH ORDINALITY AS a (account, n) ORDER BY n) AS balances',
      [moment, ids],
    )
    assert.deepEqual(
      rows[0]?.balances.map((text) => units(text)),
      balances,
      `at ${moment}`,
    )
    seen.moments += 1
  }
}

function keyed({ key, ...between }: Asked, id: (n: number) => string): Transfer {
  const [source, destination] = [id(between.source), id(between.destination)]
  return { id: transferId(source, String(key)), source, destination, amount: between.amount }
}

function funding({ to, amount }: { to: number; amount: string }, id: (n: number) => string): Transfer {
  return { id: randomUUID(), source: SERVICE_ACCOUNT, destination: id(to), amount }
}

const RUNS = 75
/** A control may take longer to find its mistake: it stops there. */
const CONTROL_RUNS = 500

test.serial('the ledger and the model agree on every outcome, every balance and every moment', async (t) => {
  const { database, db } = t.context
  const seen: Seen = { outcomes: new Set(), repeats: 0, closed: 0, moments: 0 }
  const found = await fc.check(
    fc.asyncProperty(steps, (steps) => agree(db, steps, seen)),
    parameters(t, RUNS),
  )
  if (found.failed) t.log(fc.defaultReportMessage(found), found.errorInstance)
  t.false(found.failed)
  await balanced(t, database.url)

  t.log({ ...seen, outcomes: [...seen.outcomes].join(', ') })
  t.deepEqual([...seen.outcomes].sort(), ['insufficient_funds', 'posted', 'unknown_destination', 'unknown_source'])
  t.true(seen.repeats > 50)
  // A transaction of another test may hold back every horizon for a while.
  const close = 'SELECT ledger.close_books(array(SELECT id FROM ledger.account)) AS closed'
  if (seen.closed === 0) t.truthy(await until(async () => (await db.query(close)).rows[0].closed > 0))
})

// Negative controls: each is the ledger with one mistake in it, and each must be told from the model.
const MISTAKES: Record<string, [name: string, right: string, wrong: string]> = {
  'spends a little more than there is': [
    'ledger.post_transfers',
    'chain.spent + amounts[n] > chain.received',
    'chain.spent + amounts[n] > chain.received + 1',
  ],
  'keeps the last of the money back': [
    'ledger.post_transfers',
    'chain.spent + amounts[n] > chain.received',
    'chain.spent + amounts[n] >= chain.received',
  ],
  'lets everybody overdraw': ['ledger.post_transfers', 'NOT chain.overdraft AND', 'false AND'],
  'pays to nobody': ['ledger.post_transfers', 'NOT destined[step - 1]', 'false'],
  'looks at the funds before the destination': [
    'ledger.post_transfers',
    'NOT destined[step - 1]',
    'NOT destined[step - 1] AND chain.spent + amounts[n] <= chain.received',
  ],
  'decides a repeat anew': ['ledger.post_transfers', 'first[step - 1] < n', 'false'],
  'posts what repeats a rejection': [
    'ledger.post_transfers',
    'outcomes[n] := outcomes[first[step - 1]]',
    "outcomes[n] := 'posted'",
  ],
  'does not count what a rejection stands on': [
    'ledger.post_transfers',
    "outcomes[n] := 'insufficient_funds';",
    'CONTINUE;',
  ],
  'spends for a rejection': [
    'ledger.post_transfers',
    "outcomes[n] := 'insufficient_funds';",
    "outcomes[n] := 'insufficient_funds'; chain.spent := chain.spent + amounts[n];",
  ],
  'counts the credits before a closing again': [
    'ledger.received',
    'credit.xid >= coalesce(last.horizon, ',
    'credit.xid >= coalesce(NULL::xid8, ',
  ],
  'takes a closing for all there is': [
    'ledger.post_transfers',
    'coalesce(closed.received, 0) < coalesce(last.spent, 0) + claim.amount',
    'closed.received IS NULL',
  ],
  'takes a closing for what is left': [
    'ledger.post_transfers',
    'coalesce(closed.received, 0) < coalesce(last.spent, 0) + claim.amount',
    'coalesce(closed.received, 0) < claim.amount',
  ],
  'forgets what was closed before': ['ledger.close_books', 'coalesce(last.received, 0) + since.amount', 'since.amount'],
  'knows the future': ['ledger.balance_at', 'c.recorded_at <= moment', 'true'],
  'uses a closing made later': ['ledger.balance_at', 'k.created_at <= moment', 'true'],
  'is one debit behind': ['ledger.balance_at', 't.index = low - 1', 't.index = low - 2'],
}

for (const [what, [name, right, wrong]] of Object.entries(MISTAKES)) {
  test.serial(`a ledger that ${what} is told from the model`, async (t) => {
    const database = await createDatabase()
    const db = openAdmin(database.url, 1)
    await copyFunction(db, name, name, [[right, wrong]])
    const seen: Seen = { outcomes: new Set(), repeats: 0, closed: 0, moments: 0 }
    const property = fc.asyncProperty(steps, (steps) => agree(db, steps, seen))
    const { failed, counterexample, numRuns } = await fc.check(property, {
      ...parameters(t, CONTROL_RUNS),
      endOnFailure: true,
    })
    t.true(failed)
    t.truthy(counterexample)
    t.log(`after ${numRuns} runs`)
    await db.end()
    await database.drop()
  })
}
