/*
 * The whole service against a model of it, over HTTP: random commands, several in flight at once, on two APIs, while
 * workers come and go and books are closed. Whatever a client is told fits one serial order per source, and the same
 * order explains every balance and every statement. The same commands to a ledger with one mistake in it must be found
 * out.
 *
 * Next: support/script.ts, what may happen; support/serial.ts, the model.
 */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import {
  type Decision,
  differences,
  fundingId,
  SERVICE_ACCOUNT,
  sameAmount,
  type Transfer,
  transferId,
} from '../src/transfer.ts'
import { balanced, copyFunction, units } from './support/books.ts'
import { type Answer, type Client, createClient, type Statement } from './support/client.ts'
import { type Backend, backends, parameters, type Service, startService, useDatabase } from './support/harness.ts'
import { ACCOUNTS, type Command, script } from './support/script.ts'
import { createSerial, type Serial } from './support/serial.ts'

/** Two APIs, and workers of which there is always at least one. */
type Site = { service: Service; clients: Client[]; workers: { stop(): Promise<void> }[]; changing: Promise<void> }

async function start(t: ExecutionContext, backend: Backend, database: string): Promise<Site> {
  const service = await startService({ backend, database, workers: 0 })
  t.teardown(() => service.stop())
  const { QUEUE_NAME } = service.settings
  const other = await startService({ backend, database, workers: 0, settings: { QUEUE_NAME } })
  t.teardown(() => other.stop())
  const clients = [service, other].map(({ url }) => createClient(url))
  return { service, clients, workers: [await service.startWorker()], changing: Promise.resolve() }
}

/** One run, on accounts of its own: what was asked and answered in it. */
type Run = {
  site: Site
  ids: string[]
  serial: Serial
  /** By id: what the ledger said of it, in the end of the round it was asked in. */
  decided: Map<string, Decision>
  /** Every transfer that was ever asked for under a key. */
  asked: (Transfer & { key: string })[]
  seen: Seen
}

type Seen = { transfers: number; replayed: number; reused: number; posted: number; rejected: number }

/** A round's answers: the transfers that must be decided now, and what is to be held against the decisions then. */
type Round = { expected: Set<string>; candidates: Transfer[]; checks: (() => void)[] }

/** @throws AssertionError where the service and the model differ. */
async function agree(site: Site, rounds: Command[][], seen: Seen): Promise<void> {
  const ids = Array.from({ length: ACCOUNTS }, () => randomUUID() as string)
  const run: Run = { site, ids, serial: createSerial(), decided: new Map(), asked: [], seen }
  for (const commands of rounds) {
    const round: Round = { expected: new Set(), candidates: [], checks: [] }
    const known = new Map(run.decided)
    const opening: string[] = []
    const earlier = [...run.asked]
    const work = commands.map((command) => carryOut(run, round, known, opening, earlier, command))
    const results = await Promise.allSettled(work)
    for (const result of results) if (result.status === 'rejected') throw result.reason
    for (const id of opening) run.serial.open(id)
    await conclude(run, round)
  }
  for (const id of ids) await compareStatement(run, id)
}

async function carryOut(
  run: Run,
  round: Round,
  known: Map<string, Decision>,
  opening: string[],
  earlier: Run['asked'],
  command: Command,
): Promise<void> {
  const { site, ids } = run
  const id = (n: number) => ids[n] as string
  const client = site.clients['api' in command ? command.api : 0] as Client
  switch (command.kind) {
    case 'open':
      return await openAccount(run, round, client, id(command.account), command.amount, opening)
    case 'submit': {
      const { source, destination, amount, key } = command.transfer
      // Who leaves it to the server to draw an id sends the request once: here that is a key never used before.
      const name = command.keyed ? String(key) : randomUUID()
      return await submit(run, round, known, client, keyed(id(source), id(destination), amount, name), command.wait)
    }
    case 'batch': {
      const transfers = command.transfers.map((one) =>
        keyed(id(one.source), id(one.destination), one.amount, String(one.key)),
      )
      return await submitBatch(run, round, known, client, transfers)
    }
    case 'replay': {
      const first = earlier[command.earlier % Math.max(1, earlier.length)]
      if (!first) return
      const again = { ...first }
      if (command.change === 'amount') again.amount = first.amount === '7.25' ? '7.5' : '7.25'
      if (command.change === 'destination')
        again.destination = ids.find((one) => one !== first.source && one !== first.destination) as string
      if (command.batch) return await submitBatch(run, round, known, client, [again])
      return await submit(run, round, known, client, again, command.wait)
    }
    case 'balance': {
      const { status, body } = await client.get(`/accounts/${id(command.account)}/balance`)
      const wasOpen = run.serial.isOpen(id(command.account))
      assert.ok(status === 200 || (status === 404 && !wasOpen), `balance: ${status}`)
      if (status === 200) assert.ok(units(body.balance ?? '') >= 0n, `a balance of ${body.balance}`)
      return
    }
    case 'statement': {
      const { status, body } = await client.get<Statement>(`/accounts/${id(command.account)}/transfers?limit=100`)
      if (status !== 200) return assert.ok(!run.serial.isOpen(id(command.account)), `statement: ${status}`)
      const sent = body.transfers.filter(({ direction }) => direction === 'sent').map(({ index }) => index)
      // Whenever it is read, it begins somewhere and leaves nothing out.
      assert.deepEqual(
        sent,
        Array.from(sent, (_, n) => sent.length - 1 - n),
      )
      return
    }
    case 'close':
      await site.service.pool.query('SELECT ledger.close_books($1)', [ids])
      return
    default:
      site.changing = site.changing.then(() => changeWorkers(site, command.kind === 'another'))
      return await site.changing
  }
}

const keyed = (source: string, destination: string, amount: string, key: string) => ({
  id: transferId(source, key),
  source,
  destination,
  amount,
  key,
})

async function changeWorkers(site: Site, another: boolean): Promise<void> {
  if (another && site.workers.length < 3) {
    site.workers.push(await site.service.startWorker())
    return
  }
  await site.workers.shift()?.stop()
  if (site.workers.length === 0) site.workers.push(await site.service.startWorker())
}

async function openAccount(
  run: Run,
  round: Round,
  client: Client,
  id: string,
  balance: string | null,
  opening: string[],
): Promise<void> {
  const wasOpen = run.serial.isOpen(id)
  const { status, body } = await client.post('/accounts', { id, ...(balance && { balance }) })
  opening.push(id)
  if (wasOpen) return assert.equal(status, 409)
  if (status === 409) {
    // By somebody else in this round; or by an attempt of this one, which was answered 503 and got through after all.
    const { rows } = await run.site.service.pool.query('SELECT FROM ledger.account WHERE id = $1 AND opening = $2', [
      id,
      balance,
    ])
    if (rows.length === 0) return
  } else {
    assert.equal(status, 201)
    if (balance === null) return
    assert.equal(body.funding?.id, fundingId(id))
  }
  round.expected.add(fundingId(id))
  round.candidates.push({
    id: fundingId(id),
    source: SERVICE_ACCOUNT,
    destination: id,
    amount: balance as string,
  })
}

async function submit(
  run: Run,
  round: Round,
  known: Map<string, Decision>,
  client: Client,
  { key, ...transfer }: Transfer & { key: string },
  wait: boolean,
): Promise<void> {
  const { id, source, destination, amount } = transfer
  const headers = { 'Idempotency-Key': key, ...(wait && { Prefer: 'wait=20' }) }
  const answer = await client.post('/transfers', { source, destination, amount }, headers)
  const { status, body } = answer
  round.expected.add(id)
  round.candidates.push(transfer)
  run.asked.push({ ...transfer, key })
  const first = known.get(id)
  round.checks.push(() => {
    const decision = run.decided.get(id) as Decision
    const same = differences(transfer, decision).length === 0
    if (first) {
      assert.equal(status, same ? 200 : 422, `a replay: ${answer.text}`)
      if (same) assert.equal(answer.headers.get('Idempotent-Replayed'), 'true')
    } else {
      assert.ok(status === 202 || status === (same ? 200 : 422), `${status} ${answer.text}`)
      if (wait) assert.notEqual(status, 202, 'whoever waits is told')
    }
    if (status === 200) assert.deepEqual(body, decision)
    if (status === 202) assert.deepEqual({ id: body.id, status: body.status }, { id, status: 'queued' })
    if (status === 422) assert.deepEqual(body.fields, differences(transfer, decision))
    if (status === 422) run.seen.reused += 1
    if (first && same) run.seen.replayed += 1
  })
}

async function submitBatch(
  run: Run,
  round: Round,
  known: Map<string, Decision>,
  client: Client,
  transfers: (Transfer & { key: string })[],
): Promise<void> {
  const items = transfers.map(({ id: _, ...item }) => item)
  const { status, body, text } = await client.post('/transfers/batch', { transfers: items })
  if (status === 202) {
    assert.deepEqual(
      body.ids,
      transfers.map(({ id }) => id),
    )
    for (const transfer of transfers) {
      round.expected.add(transfer.id)
      round.candidates.push(transfer)
      run.asked.push(transfer)
    }
  }
  const contradicts = transfers.some((one) => {
    const first = known.get(one.id) ?? transfers.find(({ id }) => id === one.id) ?? one
    return differences(one, first).length > 0
  })
  if (contradicts) run.seen.reused += 1
  round.checks.push(() => {
    // What was decided while the batch was on its way may have been found, too.
    const differs = transfers.some((one) => {
      const decision = run.decided.get(one.id)
      return decision && differences(one, decision).length > 0
    })
    assert.ok(status === 422 ? contradicts || differs : status === 202 && !contradicts, `batch: ${status} ${text}`)
    if (transfers.every(({ id }) => known.has(id)) && status === 202) assert.deepEqual(body.jobs, [])
  })
}

/** Waits until all is decided, and holds it against the model. */
async function conclude(run: Run, round: Round): Promise<void> {
  const { site, serial, decided, ids } = run
  const fresh: Decision[] = []
  for (const id of round.expected) {
    const client = site.clients[fresh.length % 2] as Client
    const { status, body, text } = await client.get(`/transfers/${id}`, { Prefer: 'wait=20' })
    assert.ok(
      status === 200 && (body.status === 'posted' || body.status === 'rejected'),
      `not decided: ${status} ${text}`,
    )
    const decision = body as Decision
    const first = decided.get(id)
    if (first) {
      assert.deepEqual(decision, first, 'a decision does not change')
      continue
    }
    const wanted = round.candidates.filter((candidate) => candidate.id === id)
    assert.ok(
      wanted.some(
        ({ destination, amount }) => destination === decision.destination && sameAmount(amount, decision.amount),
      ),
      `nobody asked for ${text}`,
    )
    decided.set(id, decision)
    fresh.push(decision)
    run.seen[decision.status] += 1
  }
  run.seen.transfers += fresh.length
  for (const check of round.checks) check()
  serial.settle(fresh)

  const balances = await Promise.all(ids.map((id, n) => (site.clients[n % 2] as Client).get(`/accounts/${id}/balance`)))
  for (const [n, { status, body }] of balances.entries()) {
    const id = ids[n] as string
    assert.equal(status, serial.isOpen(id) ? 200 : 404)
    if (status === 200) assert.equal(units(body.balance), serial.balance(id), `the balance of ${id}`)
  }
  // What came in from the service account is what there is.
  const funded = [...decided.values()].filter(({ source }) => source === SERVICE_ACCOUNT)
  const total = ids.reduce((sum, id) => sum + serial.balance(id), 0n)
  assert.equal(
    total,
    funded.reduce((sum, { amount }) => sum + units(amount), 0n),
  )
}

/** Page by page, it is what the account sent, in its order, and what it received. */
async function compareStatement({ site, serial }: Run, id: string): Promise<void> {
  if (!serial.isOpen(id)) return
  const lines: Statement['transfers'] = []
  for (let cursor: string | null = ''; cursor !== null; ) {
    const page: Answer<Statement> = await (site.clients[lines.length % 2] as Client).get<Statement>(
      `/accounts/${id}/transfers?limit=7${cursor && `&cursor=${cursor}`}`,
    )
    lines.push(...page.body.transfers)
    cursor = page.body.next_cursor
  }
  const line = (
    direction: string,
    { id, index, amount, status, recorded_at }: Statement['transfers'][number] | Decision,
  ) => [direction, id, index, amount, status, recorded_at].join(' ')
  const found = (direction: string) =>
    lines.filter((one) => one.direction === direction).map((one) => line(direction, one))
  assert.deepEqual(
    found('sent'),
    serial
      .chain(id)
      .toReversed()
      .map((one) => line('sent', one)),
  )
  assert.deepEqual(
    found('received').sort(),
    serial
      .credits(id)
      .map((one) => line('received', one))
      .sort(),
  )
}

const RUNS = 12
const CONTROL_RUNS = 40

const nothing = (): Seen => ({ transfers: 0, replayed: 0, reused: 0, posted: 0, rejected: 0 })

for (const backend of backends) {
  test.serial(
    `${backend}: whatever clients do at once, what they are told is one serial order per source`,
    async (t) => {
      const { url } = await useDatabase(t)
      const site = await start(t, backend, url)
      const seen = nothing()
      const found = await fc.check(
        fc.asyncProperty(script, (rounds) => agree(site, rounds, seen)),
        // Who was first is not the same the next time: shrinking would chase ghosts.
        { ...parameters(t, RUNS), endOnFailure: true },
      )
      if (found.failed) t.log(fc.defaultReportMessage(found), found.errorInstance)
      t.false(found.failed)
      await balanced(t, url)
      t.log(seen)
      t.true(seen.posted > 20 && seen.rejected > 20 && seen.replayed > 0 && seen.reused > 0)
    },
  )
}

const MISTAKES: Record<string, readonly (readonly [right: string, wrong: string])[]> = {
  'makes no claim': [
    ['WHERE pg_try_advisory_xact_lock(uuid_hash_extended(source, 0))', ''],
    ['  INSERT INTO transfer (', '  PERFORM pg_sleep(0.05);\n  INSERT INTO transfer ('],
  ],
  'lets everybody overdraw': [['NOT chain.overdraft AND', 'false AND']],
  'forgets what was spent': [['coalesce(last.spent, 0) AS spent', '0::numeric AS spent']],
  'decides anew what was decided': [
    ["SELECT coalesce(transfer.reason::text, 'posted')", 'SELECT NULL::text'],
    ['first[step - 1] < n', 'false'],
  ],
  'credits a rejection': [["decided.index IS NOT NULL AND decided.outcome = 'posted'", 'decided.index IS NOT NULL']],
}

for (const [what, changes] of Object.entries(MISTAKES)) {
  test.serial(`a service whose ledger ${what} is told from the model`, async (t) => {
    const { url, connect } = await useDatabase(t)
    const admin = connect()
    await copyFunction(admin, 'ledger.post_transfers', 'ledger.post_transfers', changes)
    await admin.query(
      'ALTER TABLE ledger.transfer DROP CONSTRAINT transfer_pkey, DROP CONSTRAINT transfer_id_source_key',
    )
    await admin.query('CREATE INDEX ON ledger.transfer (source, index); CREATE INDEX ON ledger.transfer (id)')
    const site = await start(t, 'postgres', url)
    site.workers.push(await site.service.startWorker())
    const { failed, errorInstance, numRuns } = await fc.check(
      fc.asyncProperty(script, (rounds) => agree(site, rounds, nothing())),
      { ...parameters(t, CONTROL_RUNS), endOnFailure: true },
    )
    t.true(failed)
    t.log(`after ${numRuns} runs: ${String(errorInstance).slice(0, 300)}`)
    t.true(errorInstance instanceof assert.AssertionError)
  })
}
