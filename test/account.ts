/*
 * Accounts over HTTP, end to end: opened once, funded by a transfer, and their balances now and at every past moment.
 */
import { randomUUID } from 'node:crypto'
import test from 'ava'
import { SERVICE_ACCOUNT } from '../src/transfer.ts'
import { type Body, type Client, createClient, type Statement } from './support/client.ts'
import { backends, type Service, startService, until } from './support/harness.ts'

const UUID_V7 = /^[\da-f]{8}-[\da-f]{4}-7[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/
const MOMENT = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z$/

for (const backend of backends) {
  let service: Service
  let http: Client
  // A second one, where nothing is ever decided.
  let idle: Service
  let still: Client

  test.before(`${backend}: start`, async () => {
    service = await startService({ backend })
    http = createClient(service.url)
    idle = await startService({ backend, workers: 0 })
    still = createClient(idle.url)
  })

  test.after.always(`${backend}: stop`, async () => {
    await service?.stop()
    await idle?.stop()
  })

  test(`${backend}: an account opens under an id of the client's or of the server's`, async (t) => {
    const made = await http.post('/accounts', {})
    t.is(made.status, 201)
    t.regex(String(made.body.id), UUID_V7)
    t.regex(String(made.body.created_at), MOMENT)
    t.deepEqual(made.body, { id: made.body.id, overdraft: false, created_at: made.body.created_at } as Body)
    t.is(made.headers.get('Location'), `/accounts/${made.body.id}`)
    t.regex(made.headers.get('Content-Type') ?? '', /^application\/json/)

    const { id, named } = await until(async () => {
      const id = randomUUID()
      const named = await http.post('/accounts', { id: id.toUpperCase() })
      // It exists if an attempt that was answered 503 has got through after all.
      return named.status !== 409 && { id, named }
    })
    t.is(named.status, 201)
    t.is(named.body.id, id)

    const empty = await http.call('POST', '/accounts')
    t.is(empty.status, 201)

    for (const { body, headers } of [made, named, empty]) {
      const seen = await http.get(headers.get('Location') ?? '')
      t.is(seen.status, 200)
      t.deepEqual(seen.body, body)
      const balance = await http.get(`/accounts/${body.id}/balance`)
      t.is(balance.status, 200)
      t.deepEqual(balance.body, { account: String(body.id), balance: '0' })
    }
  })

  test(`${backend}: an opening balance is a transfer from the service account`, async (t) => {
    const waited = await http.post('/accounts', { balance: '100.00' }, { Prefer: 'wait=20' })
    t.is(waited.status, 201)
    t.is(waited.headers.get('Preference-Applied'), 'wait=20')
    t.like(waited.body.funding, {
      status: 'posted',
      source: SERVICE_ACCOUNT,
      destination: String(waited.body.id),
      amount: '100.00',
    })
    t.is((await http.get(`/accounts/${waited.body.id}/balance`)).body.balance, '100.00')

    const { status, headers, body } = await http.post('/accounts', { balance: 7 })
    t.is(status, 201)
    t.is(headers.get('Preference-Applied'), null)
    t.like(body.funding, { status: 'queued', source: SERVICE_ACCOUNT, destination: String(body.id), amount: '7' })
    const funded = await http.get(`/transfers/${body.funding?.id}?job=${body.funding?.job}`, { Prefer: 'wait=20' })
    t.like(funded.body, { id: String(body.funding?.id), status: 'posted', amount: '7' })
    t.is((await http.get(`/accounts/${body.id}/balance`)).body.balance, '7')
  })

  test(`${backend}: an account opens once`, async (t) => {
    const id = await http.open('5.00')
    const before = await http.get(`/accounts/${id}`)
    for (const again of [{ id }, { id, balance: '5.00' }, { id: id.toUpperCase(), balance: '6.00' }]) {
      const { status, body } = await http.post('/accounts', again, { Prefer: 'wait=1' })
      t.is(status, 409)
      t.like(body, { type: '/problems/account-exists', status: 409 })
    }
    t.is((await http.post('/accounts', { id: SERVICE_ACCOUNT, balance: '1' })).status, 409)
    t.deepEqual((await http.get(`/accounts/${id}`)).body, before.body)
    t.is((await http.get(`/accounts/${id}/balance`)).body.balance, '5.00')

    // Nor is one whose money is still on its way.
    const { body } = await still.post('/accounts', { balance: '5.00' })
    t.is(body.funding?.status, 'queued')
    t.is((await still.post('/accounts', { id: body.id, balance: '5.00' })).status, 409)
  })

  test(`${backend}: many clients opening one account at once fund it once`, async (t) => {
    const request = { id: randomUUID(), balance: '5.00' }
    const answers = await Promise.all(
      Array.from({ length: 12 }, () => http.post('/accounts', request, { Prefer: 'wait=20' })),
    )
    const opened = answers.filter(({ status }) => status === 201)
    t.true(opened.length >= 1)
    t.true(answers.every(({ status }) => status === 201 || status === 409))
    t.is(new Set(opened.map(({ body }) => body.funding?.id)).size, 1)
    t.is((await http.get(`/accounts/${request.id}/balance`)).body.balance, '5.00')
    t.is((await http.get<Statement>(`/accounts/${request.id}/transfers`)).body.transfers.length, 1)
  })

  test(`${backend}: an account nobody opened is not found`, async (t) => {
    for (const rest of ['', '/balance', '/balance?at=2020-01-01T00:00:00Z', '/transfers']) {
      const { status, body } = await http.get(`/accounts/${randomUUID()}${rest}`)
      t.is(status, 404, rest)
      t.is(body.type, '/problems/account-not-found')
    }
  })

  test(`${backend}: a balance is known at every past moment`, async (t) => {
    const opened = await http.post('/accounts', { balance: '100.00' }, { Prefer: 'wait=20' })
    const id = String(opened.body.id)
    const other = await http.open('10')
    const history = [
      { at: String(opened.body.created_at), balance: '0' },
      { at: String(opened.body.funding?.recorded_at), balance: '100.00' },
    ]
    for (const [source, destination, amount, balance] of [
      [id, other, '30.00', '70.00'],
      [other, id, '0.00000001', '70.00000001'],
      [id, other, '1000', '70.00000001'],
      [id, other, '0.00000001', '70.00000000'],
    ] as const) {
      const { recorded_at } = await http.transfer(source, destination, amount)
      history.push({ at: String(recorded_at), balance })
    }

    const at = async (moment: string) => http.get(`/accounts/${id}/balance?at=${encodeURIComponent(moment)}`)
    for (const [position, { at: moment, balance }] of history.entries()) {
      const { status, body } = await at(moment)
      t.is(status, 200)
      t.deepEqual(body, { account: id, balance: sameDecimal(balance, body.balance), at: moment })
      const before = await at(oneMicrosecondBefore(moment))
      const expected = history[position - 1]?.balance
      if (expected === undefined) t.is(before.status, 404)
      else t.is(before.body.balance, sameDecimal(expected, before.body.balance))
    }
    const now = await http.get(`/accounts/${id}/balance`)
    t.is(Number(now.body.balance), 70)
    t.is(now.body.at, undefined)

    // One moment in another time zone is the same moment, however far away that is.
    const moment = String(history[2]?.at)
    for (const hours of [0, 1, -5, 15, -15, 23, -23]) {
      const local = new Date(Date.parse(moment) + hours * 3_600_000).toISOString().slice(0, 19)
      const fraction = /\.\d+/.exec(moment)?.[0] ?? ''
      const zone = `${hours < 0 ? '-' : '+'}${String(Math.abs(hours)).padStart(2, '0')}:00`
      t.is((await at(`${local}${fraction}${zone}`)).body.balance, '70.00', zone)
    }
    t.is((await at('0001-01-01T00:00:00Z')).status, 404)
  })
}

/** The expected spelling if the found one is the same decimal: sums keep the most digits any of their terms had. */
function sameDecimal(expected: string, found: string | undefined): string {
  const plain = (text: string) => (text.includes('.') ? text.replace(/\.?0+$/, '') : text)
  return found !== undefined && plain(found) === plain(expected) ? found : expected
}

function oneMicrosecondBefore(moment: string): string {
  const [, second = '', fraction = ''] = /^(.*?)(?:\.(\d+))?Z$/.exec(moment) ?? []
  const micros = BigInt(Date.parse(`${second}Z`)) * 1000n + BigInt(fraction.padEnd(6, '0')) - 1n
  const whole = new Date(Number(micros / 1000n)).toISOString().slice(0, 19)
  return `${whole}.${String(micros % 1_000_000n).padStart(6, '0')}Z`
}
