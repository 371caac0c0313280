/*
 * Statements over HTTP: what came and went, newest first, page by page, without loss, repetition or shift.
 */
import { randomUUID } from 'node:crypto'
import test from 'ava'
import { SERVICE_ACCOUNT } from '../src/transfer.ts'
import { type Client, createClient, type Line, type Statement } from './support/client.ts'
import { backends, type Service, startService } from './support/harness.ts'

const MOMENT = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z$/

for (const backend of backends) {
  let service: Service
  let http: Client

  test.before(`${backend}: start`, async () => {
    service = await startService({ backend })
    http = createClient(service.url)
  })

  test.after.always(`${backend}: stop`, () => service?.stop())

  test(`${backend}: a statement lists what came and went, newest first, page by page`, async (t) => {
    const id = await http.open('100.00')
    const other = await http.open('50.00')
    const nobody = randomUUID()
    const sent = await http.transfer(id, other, '30.00')
    const received = await http.transfer(other, id, '5')
    const refused = await http.transfer(id, other, '1000')
    const astray = await http.transfer(id, nobody, '1')

    const { status, body } = await http.get<Statement>(`/accounts/${id}/transfers`)
    t.is(status, 200)
    t.is(body.account, id)
    t.is(body.next_cursor, null)
    const [funding] = body.transfers.slice(-1)
    t.like(funding, { direction: 'received', account: SERVICE_ACCOUNT, amount: '100.00', status: 'posted' })
    const expected = [
      {
        id: astray.id,
        direction: 'sent',
        account: nobody,
        amount: '1',
        status: 'rejected',
        reason: 'unknown_destination',
      },
      {
        id: refused.id,
        direction: 'sent',
        account: other,
        amount: '1000',
        status: 'rejected',
        reason: 'insufficient_funds',
      },
      { id: received.id, direction: 'received', account: other, amount: '5', status: 'posted' },
      { id: sent.id, direction: 'sent', account: other, amount: '30.00', status: 'posted' },
    ]
    t.is(body.transfers.length, expected.length + 1)
    for (const [position, line] of expected.entries()) t.like(body.transfers[position], line)
    for (const line of body.transfers) t.regex(String(line.recorded_at), MOMENT)
    // The indexes are those of the senders' chains.
    t.deepEqual(
      body.transfers.slice(0, -1).map((line) => line.index),
      [2, 1, 0, 0],
    )

    // The other side sees what it received, and nothing of what was rejected.
    const theirs = (await http.get<Statement>(`/accounts/${other}/transfers`)).body.transfers
    t.deepEqual(theirs.map((line) => [line.id, line.direction, line.account]).slice(0, -1), [
      [received.id, 'sent', id],
      [sent.id, 'received', id],
    ])

    for (const limit of [1, 2, 3, 5, 100]) {
      const pages = await readPages(http, id, limit)
      t.deepEqual(pages.flat(), body.transfers, `limit ${limit}`)
      t.true(pages.every((page) => page.length <= limit))
    }
  })

  test(`${backend}: pages do not shift when transfers arrive in between`, async (t) => {
    const [id, other] = [await http.open('100'), await http.open('100')]
    for (let count = 0; count < 20; count++) await http.transfer(count % 2 ? id : other, count % 2 ? other : id, '1')
    const before = (await http.get<Statement>(`/accounts/${id}/transfers?limit=100`)).body.transfers
    t.is(before.length, 21)
    const pages = await readPages(http, id, 8, async () => {
      await http.transfer(id, other, '1')
      await http.transfer(other, id, '1')
    })
    t.deepEqual(pages.flat(), before)

    // Unless told, a page has 20 lines.
    const page = (await http.get<Statement>(`/accounts/${id}/transfers`)).body
    t.is(page.transfers.length, 20)
    t.not(page.next_cursor, null)
  })

  test(`${backend}: transfers of one batch, all of one moment, are paged without loss`, async (t) => {
    const [id, other] = [await http.open('1000'), await http.open('1000')]
    const transfers = Array.from({ length: 40 }, (_, count) => ({
      key: `${count}`,
      source: count % 2 ? id : other,
      destination: count % 2 ? other : id,
      amount: String(count + 1),
    }))
    const { body } = await http.post('/transfers/batch', { transfers })
    const ids = body.ids ?? []
    await Promise.all(ids.map((transfer) => http.get(`/transfers/${transfer}`, { Prefer: 'wait=20' })))
    const lines = (await readPages(http, id, 7)).flat()
    t.is(lines.length, 41)
    t.deepEqual(
      lines
        .slice(0, -1)
        .map((line) => line.id)
        .sort(),
      [...ids].sort(),
    )
  })
}

/** All pages of a statement, one after the other. */
async function readPages(
  http: Client,
  account: string,
  limit: number,
  between?: () => Promise<void>,
): Promise<Line[][]> {
  const pages: Line[][] = []
  let cursor: string | null = null
  do {
    const next: string = cursor === null ? '' : `&cursor=${encodeURIComponent(cursor)}`
    const { body } = await http.get<Statement>(`/accounts/${account}/transfers?limit=${limit}${next}`)
    pages.push(body.transfers)
    cursor = body.next_cursor
    if (cursor !== null) await between?.()
  } while (cursor !== null)
  return pages
}
