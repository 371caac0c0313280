/*
 * Bad input gets a clear 4xx and changes nothing: no row, no job, whatever it is and wherever it comes in. Here, what
 * comes in a body, and the key with it.
 *
 * Next: address.ts, what is asked for, and with which parameters and methods.
 */

import { randomUUID } from 'node:crypto'
import { gzipSync } from 'node:zlib'
import test, { type ExecutionContext } from 'ava'
import { SERVICE_ACCOUNT } from '../src/transfer.ts'
import { patiently } from './support/client.ts'
import { backends } from './support/harness.ts'
import { type Case, DESTINATION, type Gate, INVALID, SOURCE, startGate, transfer, valid } from './support/refusal.ts'

const TOO_LARGE = { status: 413, type: 'content-too-large' }
const UNSUPPORTED = { status: 415, type: 'unsupported-media-type' }

for (const backend of backends) {
  let gate: Gate

  test.before(`${backend}: start`, async () => {
    gate = await startGate(backend)
  })

  test.after.always(`${backend}: stop`, () => gate?.stop())

  const refuse = (t: ExecutionContext, cases: Case[]) => gate.refuse(t, cases)

  test.serial(`${backend}: what a request could change is counted`, async (t) => {
    for (const [path, body] of Object.entries(valid)) {
      const before = await gate.count()
      const { status } = await patiently(() => gate.http.post(path, body))
      t.true(status === 201 || status === 202, path)
      const after = await gate.count()
      t.true(after.jobs > before.jobs, path)
      t.is(after.accounts > before.accounts, path === '/accounts')
    }
  })

  test.serial(`${backend}: a body that is no JSON object is refused`, async (t) => {
    const bodies: [title: string, body: string | Buffer, type: string][] = [
      ['cut off', '{"source":', 'malformed-json'],
      ['a stray brace', '{', 'malformed-json'],
      ['two values', '{}{}', 'malformed-json'],
      ['single quotes', "{'a': 1}", 'malformed-json'],
      ['a trailing comma', '{"a": 1,}', 'malformed-json'],
      ['NaN', `{"source":"${SOURCE}","destination":"${DESTINATION}","amount":NaN}`, 'malformed-json'],
      ['Infinity', `{"source":"${SOURCE}","destination":"${DESTINATION}","amount":-Infinity}`, 'malformed-json'],
      ['a raw null byte', '{"a": "\0"}', 'malformed-json'],
      ['a null', 'null', 'malformed-json'],
      ['a string', '"text"', 'malformed-json'],
      ['a number', '12', 'malformed-json'],
      ['true', 'true', 'malformed-json'],
      ['words', 'source=a&destination=b', 'malformed-json'],
      ['no UTF-8', Buffer.from('{"a": "\xff"}', 'latin1'), 'malformed-json'],
      ['UTF-16', Buffer.from(valid['/transfers'], 'utf16le'), 'malformed-json'],
      ['an array', '[]', 'invalid-request'],
      ['an array of one', `[${JSON.stringify(transfer)}]`, 'invalid-request'],
      ['__proto__', '{"__proto__": {"source": "x"}}', 'invalid-request'],
      ['an escaped __proto__', '{"\\u005f_proto__": {"source": "x"}}', 'invalid-request'],
      ['a deep nest', `{"source": ${'['.repeat(50_000)}${']'.repeat(50_000)}, "amount": 1}`, 'malformed-json'],
    ]
    await refuse(
      t,
      Object.keys(valid).flatMap((path) =>
        bodies.map(([title, body, type]) => ({ title, method: 'POST', path, body, status: 400, type })),
      ),
    )
    await refuse(t, [
      { title: 'no body', method: 'POST', path: '/transfers', ...INVALID, says: /\/source.*\/destination.*\/amount/ },
      { title: 'no body', method: 'POST', path: '/transfers/batch', ...INVALID, says: /\/transfers/ },
      { title: 'an empty object', method: 'POST', path: '/transfers', body: '{}', ...INVALID, says: /missing/ },
    ])
  })

  test.serial(`${backend}: a body of another kind, encoding or size is refused`, async (t) => {
    const cases: Case[] = []
    for (const [path, body] of Object.entries(valid)) {
      for (const kind of [
        ...['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x', 'application/xml'],
        ...['text/json5', 'application/octet-stream', 'nonsense', 'application/json; charset=utf-16'],
      ]) {
        const headers = { 'Content-Type': kind }
        cases.push({ title: kind, method: 'POST', path, body, headers, ...UNSUPPORTED, says: /application\/json/ })
      }
      for (const encoding of ['nonsense', 'gzip', 'deflate', 'br']) {
        const headers = { 'Content-Encoding': encoding }
        cases.push({ title: encoding, method: 'POST', path, body, headers, ...UNSUPPORTED, says: /plain/ })
      }
      const large = body.replace(/\}$/, `, "padding": "${'x'.repeat(600_000)}"}`)
      cases.push({ title: 'too large', method: 'POST', path, body: large, ...TOO_LARGE })
      cases.push({
        title: 'too large, blank',
        method: 'POST',
        path,
        body: `${body}${' '.repeat(600_000)}`,
        ...TOO_LARGE,
      })
    }
    // A megabyte of blanks, packed into a kilobyte.
    const packed = gzipSync(`${valid['/transfers']}${' '.repeat(1_000_000)}`)
    const headers = { 'Content-Encoding': 'gzip' }
    cases.push({ title: 'packed', method: 'POST', path: '/transfers', body: packed, headers, ...UNSUPPORTED })
    await refuse(t, cases)
  })

  test.serial(`${backend}: an id that is no UUID is refused`, async (t) => {
    const others: unknown[] = [
      ...['', ' ', 'abc', '1', '../../etc/passwd', `${SOURCE} `, `${SOURCE}\n`, `${SOURCE}\0`, `{${SOURCE}}`],
      ...[SOURCE.replaceAll('-', ''), `urn:uuid:${SOURCE}`, SOURCE.replace(/.$/, 'g'), SOURCE.slice(0, -1)],
      ...["' OR 1=1 --", 'x'.repeat(10_000), 1, 0, null, true, {}, [], [SOURCE], { id: SOURCE }],
    ]
    const cases: Case[] = []
    for (const other of others) {
      const post = (path: string, body: object, says: RegExp) =>
        cases.push({ title: 'id', method: 'POST', path, body: JSON.stringify(body), ...INVALID, says })
      post('/accounts', { id: other }, /\/id/)
      post('/transfers', { ...transfer, source: other }, /\/source.*UUID/)
      post('/transfers', { ...transfer, destination: other }, /\/destination.*UUID/)
      post('/transfers/batch', { transfers: [transfer, { ...transfer, source: other }] }, /\/transfers\/1\/source/)
    }
    await refuse(t, cases)
  })

  test.serial(`${backend}: an amount that is not a plain decimal above zero is refused`, async (t) => {
    const strings = [
      ...['0', '0.0', '0.00000000', '-1', '-0.01', '+1', '1e3', '1E3', '1e-3', 'NaN', 'Infinity', '-Infinity', 'inf'],
      ...['', ' ', ' 1', '1 ', '1\n', '1\0', '\u00001', '1,5', '1.', '.5', '.', '01', '00.1', '0x10', '0b1', '1_000'],
      ...['1.2.3', '1.123456789', '0.000000001', '1'.repeat(21), `1${'0'.repeat(20)}.00`, '9'.repeat(10_000)],
      ...['١', '１', '½', '1’000', '$1', '1 EUR', 'one', 'null', 'true', '[1]'],
    ].map((text) => JSON.stringify(text))
    const numbers = [
      ...['0', '-0', '-1', '0.1', '12.50', '1.0', '1e3', '1E3', '1e0', '10e-1', '1e400', '-1e400', '1e-400'],
      ...['9007199254740992', '9007199254740993', '99999999999999999999', '1'.repeat(400)],
    ]
    const others = ['null', 'true', '{}', '[]', '["1"]', '[1]', '{"value":"1"}']
    const cases = [...strings, ...numbers, ...others].flatMap((amount): Case[] => [
      {
        ...{ title: 'amount', method: 'POST', path: '/transfers' },
        body: `{"source":"${SOURCE}","destination":"${DESTINATION}","amount":${amount}}`,
        ...{ ...INVALID, says: /\/amount.*as a string such as/ },
      },
      {
        ...{ title: 'balance', method: 'POST', path: '/accounts' },
        body: `{"id":"${randomUUID()}","balance":${amount}}`,
        ...{ ...INVALID, says: /\/balance/ },
      },
    ])
    await refuse(t, cases)
  })

  test.serial(`${backend}: a field nobody knows is refused`, async (t) => {
    const cases: Case[] = []
    for (const [path, body] of Object.entries(valid)) {
      for (const field of [
        'note',
        'AMOUNT',
        'job',
        'overdraft',
        'constructor',
        'toString',
        'hasOwnProperty',
        '',
        '\0',
      ]) {
        cases.push({
          ...{ title: 'unknown field', method: 'POST', path },
          body: body.replace('{', `{${JSON.stringify(field)}: "1", `),
          ...{ ...INVALID, says: /unknown/ },
        })
      }
      for (const field of ['__proto__', '\\u005f_proto__']) {
        const nested = body.replace('{', `{"${field}": {"amount": "1"}, `)
        cases.push({ title: '__proto__', method: 'POST', path, body: nested, ...INVALID })
      }
    }
    const beside = JSON.stringify({ transfers: [transfer, { ...transfer, id: randomUUID() }] })
    cases.push({
      title: 'in an item',
      method: 'POST',
      path: '/transfers/batch',
      body: beside,
      ...INVALID,
      says: /\/transfers\/1\/id/,
    })
    const keyed = JSON.stringify({ ...transfer, key: 'a' })
    cases.push({
      title: 'a key in the body',
      method: 'POST',
      path: '/transfers',
      body: keyed,
      ...INVALID,
      says: /\/key/,
    })
    await refuse(t, cases)
    t.is(({} as { amount?: string }).amount, undefined)
  })

  test.serial(`${backend}: the service account is no source, and no account pays itself`, async (t) => {
    const cases: Case[] = []
    for (const [pair, says] of [
      [{ source: SERVICE_ACCOUNT, destination: DESTINATION }, /\/source.*service account/],
      [{ source: SOURCE, destination: SOURCE }, /\/destination.*other than the source/],
      [{ source: SOURCE, destination: SOURCE.toUpperCase() }, /\/destination.*other than the source/],
      [{ source: SERVICE_ACCOUNT, destination: SERVICE_ACCOUNT }, /\/source/],
    ] as const) {
      const wrong = { ...pair, amount: '1' }
      const [one, many] = [JSON.stringify(wrong), JSON.stringify({ transfers: [transfer, wrong] })]
      cases.push({ title: 'pair', method: 'POST', path: '/transfers', body: one, ...INVALID, says })
      cases.push({ title: 'pair', method: 'POST', path: '/transfers/batch', body: many, ...INVALID, says })
    }
    await refuse(t, cases)
  })

  test.serial(`${backend}: a key of no or more than 255 characters is refused`, async (t) => {
    const cases = ['', 'x'.repeat(256), 'x'.repeat(5000)].flatMap((key): Case[] => [
      {
        ...{ title: 'header', method: 'POST', path: '/transfers', body: valid['/transfers'] },
        headers: { 'Idempotency-Key': key },
        ...{ ...INVALID, says: /Idempotency-Key.*1 to 255/ },
      },
      {
        ...{ title: 'item', method: 'POST', path: '/transfers/batch' },
        body: JSON.stringify({ transfers: [{ key, ...transfer }] }),
        ...{ ...INVALID, says: /\/transfers\/0\/key.*1 to 255/ },
      },
    ])
    for (const key of [1, null, true, {}, ['a']]) {
      const body = JSON.stringify({ transfers: [{ key, ...transfer }] })
      cases.push({ title: 'no string', method: 'POST', path: '/transfers/batch', body, ...INVALID, says: /\/0\/key/ })
    }
    // Half a character has no UTF-8, and so no UUID.
    const body = `{"transfers":[{"key":"\\ud800",${valid['/transfers'].slice(1)}]}`
    cases.push({ title: 'half a character', method: 'POST', path: '/transfers/batch', body, ...INVALID, says: /key/ })
    await refuse(t, cases)
  })

  test.serial(`${backend}: a batch of none, of more than 1,000 or of something else is refused`, async (t) => {
    const bodies: [title: string, body: unknown][] = [
      ['none', { transfers: [] }],
      ['1,001', { transfers: Array.from({ length: 1001 }, () => transfer) }],
      ['no array', { transfers: transfer }],
      ['a null', { transfers: null }],
      ['a string', { transfers: 'all' }],
      ['missing', {}],
      ['a null in it', { transfers: [null] }],
      ['a number in it', { transfers: [1] }],
      ['an array in it', { transfers: [[transfer]] }],
    ]
    await refuse(
      t,
      bodies.map(([title, body]) => ({
        ...{ title, method: 'POST', path: '/transfers/batch', body: JSON.stringify(body) },
        ...{ ...INVALID, says: /\/transfers/ },
      })),
    )
  })

  test.serial(`${backend}: one bad transfer refuses its whole batch, and every bad one is named`, async (t) => {
    const transfers: object[] = Array.from({ length: 1000 }, () => transfer)
    transfers[0] = { ...transfer, amount: 1.5 }
    transfers[17] = { ...transfer, source: 'nobody', note: 'x' }
    transfers[500] = { ...transfer, destination: SOURCE }
    transfers[998] = { key: '', ...transfer, amount: '0' }
    transfers[999] = {}
    const before = await gate.count()
    const { status, body } = await gate.http.post('/transfers/batch', { transfers })
    t.is(status, 400)
    t.deepEqual((body.errors ?? []).map(({ pointer }) => pointer).sort(), [
      ...['/transfers/0/amount', '/transfers/17/note', '/transfers/17/source', '/transfers/500/destination'],
      ...['/transfers/998/amount', '/transfers/998/key'],
      ...['/transfers/999/amount', '/transfers/999/destination', '/transfers/999/source'],
    ])
    t.true((body.errors ?? []).every(({ detail }) => Boolean(detail)))
    t.deepEqual(await gate.count(), before)
  })

  test.serial(`${backend}: bad input leaves the service as it was`, (t) => gate.expectUnharmed(t))
}
