/*
 * Nonsense: requests of every wrong kind, as bytes, and a client that sends bytes and reads what comes back.
 *
 * Each is drawn from what the service takes, with one or more things put out of order, so that most get far enough to be
 * refused for a reason of their own. Some turn out to be valid.
 */
import { connect } from 'node:net'
import fc from 'fast-check'

/** `whole` if there is a request in it to answer; else the end of the connection is an answer, too. */
export type Sent = { bytes: Buffer; whole: boolean }

export type Received = { status: number; headers: Map<string, string>; body: string; took_ms: number }

/**
 * Sends, and waits until the connection is closed from the other side.
 *
 * @returns the first answer, or undefined if there was none.
 * @throws Error if nothing happens in time.
 */
export function exchange(url: string, { bytes, whole }: Sent, limit_ms: number): Promise<Received | undefined> {
  const { hostname, port } = new URL(url)
  const began_ms = performance.now()
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    const socket = connect({ host: hostname, port: Number(port), allowHalfOpen: true })
    const timer = setTimeout(() => {
      socket.destroy()
      reject(new Error(`neither answered nor closed within ${limit_ms} ms`))
    }, limit_ms)
    socket.on('data', (chunk: Buffer) => chunks.push(chunk))
    socket.on('error', () => {}) // a reset; what was received before stands
    socket.on('end', () => socket.end())
    socket.on('close', () => {
      clearTimeout(timer)
      resolve(readAnswer(Buffer.concat(chunks).toString('latin1'), performance.now() - began_ms))
    })
    // What is not whole is broken off, or the other side would rightly wait for the rest.
    if (whole) socket.write(bytes)
    else socket.end(bytes)
  })
}

function readAnswer(received: string, took_ms: number): Received | undefined {
  // Not an interim one; others may follow on the same connection.
  const start = received.search(/HTTP\/1\.1 [2-5]\d\d /)
  if (start === -1) return undefined
  const end = received.indexOf('\r\n\r\n', start)
  const [first = '', ...lines] = received.slice(start, end).split('\r\n')
  const headers = new Map(lines.map((line) => [line.slice(0, line.indexOf(':')).toLowerCase(), after(line)]))
  const length = Number(headers.get('content-length') ?? 0)
  const body = Buffer.from(received.slice(end + 4, end + 4 + length), 'latin1').toString()
  return { status: Number(first.split(' ')[1]), headers, body, took_ms }
}

const after = (line: string) => line.slice(line.indexOf(':') + 1).trim()

/** Accounts that exist, so that what is right is right. */
export type Known = { source: string; destination: string }

export function nonsense({ source, destination }: Known): fc.Arbitrary<Sent> {
  const odd = fc.oneof(
    fc.constantFrom(
      ...[
        '',
        ' ',
        '\0',
        '\n',
        '\r\n',
        '\ud800',
        '\udfff',
        '\ufeff',
        '\u202e',
        '💸',
        '💸'.repeat(255),
        '💸'.repeat(256),
      ],
      ...['x'.repeat(255), 'x'.repeat(256), 'é'.repeat(256), 'x'.repeat(20_000), '__proto__', 'constructor', 'null'],
      ...['NaN', 'Infinity', '-1', '1e3', '1e400', '0x10', '00', '1.', '.5', '9'.repeat(21), '0.000000001', '١'],
      ...["' OR 1=1 --", '{{7*7}}', '../../etc/passwd', '%00', '<script>', '00000000-0000-0000-0000-000000000000'],
    ),
    fc.string({ unit: 'binary' }),
    fc.uuid(),
  )
  const id = fc.oneof({ weight: 3, arbitrary: fc.constantFrom(source, destination) }, { weight: 1, arbitrary: odd })

  // JSON as text, because much of it is none.
  const text = odd.map((value) => JSON.stringify(value))
  const number = fc.constantFrom(
    ...['0', '-0', '-1', '1', '12', '1.5', '1e3', '1E400', '-1e400', '1e-400', '9007199254740993', '9'.repeat(400)],
    ...['NaN', 'Infinity', '01', '+1', '.5', '1.', '0x1', '1_000'],
  )
  const deep = fc
    .constantFrom(['[', ']'], ['{"a":', '}'], ['[', ''], ['{"__proto__":', '}'])
    .map(([open = '', close = '']) => `${open.repeat(10_000)}1${close.repeat(10_000)}`)
  const json = fc.json().map((value) => value.slice(0, 5000))
  const wrong = fc.oneof(
    { weight: 4, arbitrary: text },
    { weight: 4, arbitrary: number },
    { weight: 4, arbitrary: json },
    { weight: 1, arbitrary: deep },
    {
      weight: 2,
      arbitrary: fc.constantFrom('null', 'true', '{}', '[]', 'undefined', '"\\ud800"', '"\\u0000"', '"\x01"'),
    },
  )
  const right = {
    source: JSON.stringify(source),
    destination: JSON.stringify(destination),
    amount: '"1.00"',
    key: '"a"',
    balance: '"1"',
  }
  const field = (name: keyof typeof right | 'id') =>
    fc
      .oneof(
        {
          weight: 6,
          arbitrary: name === 'id' ? fc.uuid().map((value) => JSON.stringify(value)) : fc.constant(right[name]),
        },
        { weight: 2, arbitrary: wrong },
      )
      .map((value) => `"${name}":${value}`)
  const extra = fc
    .tuple(
      fc.constantFrom('__proto__', 'constructor', 'toString', '\\u005f_proto__', 'amount', 'source', 'id', 'note', ''),
      wrong,
    )
    .map(([name, value]) => `"${name}":${value}`)
  const object = (...fields: fc.Arbitrary<string>[]) =>
    fc
      .tuple(
        fc.tuple(...fields.map((one) => fc.option(one, { nil: undefined, freq: 12 }))),
        fc.option(extra, { nil: undefined, freq: 3 }),
        fc.boolean(),
      )
      .map(([given, more, first]) => {
        const all = given.filter((part) => part !== undefined)
        // Twice the same name, or one that nobody knows, before or behind the others.
        if (more !== undefined) all.splice(first ? 0 : all.length, 0, more)
        return `{${all.join(',')}}`
      })
  const transfer = object(field('source'), field('destination'), field('amount'))
  const item = object(field('key'), field('source'), field('destination'), field('amount'))
  const valid = `{"source":"${source}","destination":"${destination}","amount":"1"}`
  const batch = fc.oneof(
    { weight: 8, arbitrary: fc.array(item, { maxLength: 4 }).map((items) => `{"transfers":[${items}]}`) },
    { weight: 2, arbitrary: wrong.map((value) => `{"transfers":${value}}`) },
    {
      weight: 1,
      arbitrary: fc
        .constantFrom(999, 1000, 1001, 3000)
        .map((size) => `{"transfers":[${Array.from({ length: size }, () => valid)}]}`),
    },
  )

  const encode = (content: fc.Arbitrary<string>): fc.Arbitrary<Buffer> =>
    fc.oneof(
      { weight: 12, arbitrary: content.map((value) => Buffer.from(value)) },
      { weight: 1, arbitrary: content.map((value) => Buffer.from(`\ufeff${value}`)) },
      { weight: 1, arbitrary: content.map((value) => Buffer.from(value, 'utf16le')) },
      { weight: 1, arbitrary: content.map((value) => Buffer.concat([Buffer.from(value), Buffer.from([0xf0, 0x9f])])) },
      { weight: 1, arbitrary: content.map((value) => Buffer.from(value.replace(/"[^"]*"$/, '\xff'), 'latin1')) },
      {
        weight: 1,
        arbitrary: fc.tuple(content, fc.nat(60)).map(([value, cut]) => Buffer.from(value).subarray(0, -cut - 1)),
      },
      { weight: 1, arbitrary: content.map((value) => Buffer.from(value + value)) },
      { weight: 1, arbitrary: wrong.map((value) => Buffer.from(value)) },
      { weight: 1, arbitrary: fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)) },
    )

  const escaped = odd.map((value) => encodeURIComponent(value.toWellFormed()).slice(0, 4000))
  const raw = fc.oneof(
    escaped,
    fc.constantFrom('%', '%zz', '%00', '%c0%ae', '%ff', '..', '.', '//', '%2f', ';a=b', '*'),
  )
  const place = fc.oneof({ weight: 2, arbitrary: id.map((value) => encodeURIComponent(value.toWellFormed())) }, raw)
  const query = fc
    .array(
      fc
        .tuple(fc.oneof({ weight: 4, arbitrary: fc.constantFrom('at', 'limit', 'cursor', 'job') }, raw), raw)
        .map((pair) => pair.join('=')),
      { maxLength: 3 },
    )
    .map((pairs) => (pairs.length === 0 ? '' : `?${pairs.join('&')}`))
  const read = fc
    .tuple(
      fc.constantFrom(
        '/accounts/:',
        '/accounts/:/balance',
        '/accounts/:/transfers',
        '/transfers/:',
        '/jobs/:',
        '/:',
        '/health/:',
      ),
      place,
      query,
    )
    .map(([route, value, asked]) => route.replace(':', () => value) + asked)

  const header = fc.oneof(
    fc.constantFrom(
      ...['Content-Encoding: gzip', 'Content-Encoding: nonsense', 'Prefer: wait=-1', 'Prefer: wait=0', 'Prefer: \x7f'],
      ...['Prefer: respond-async; wait=', 'Idempotency-Key:', 'Idempotency-Key: a\r\nIdempotency-Key: b', 'A: \0'],
      ...['A\x01: b', 'A : b', ': b', 'no colon', ' folded', 'A: b\r\n folded', `A: ${'x'.repeat(15_000)}`, 'A: \r'],
      ...[`A: ${'x'.repeat(17_000)}`, `${'A: b\r\n'.repeat(1900)}A: b`, 'Expect: 100-continue', 'Expect: nonsense'],
      ...['X-Request-ID: a b', `X-Request-ID: ${'x'.repeat(500)}`, 'X-Request-ID: \xff', 'Authorization: Bearer \xff'],
      ...['Upgrade: websocket', 'Connection: Upgrade, close', 'Host: a', 'Host:', 'X-HTTP-Method-Override: DELETE'],
      ...[
        '__proto__: a',
        'constructor: a',
        'Accept: nonsense',
        'Cookie: \xff=\xff',
        'Range: bytes=0-',
        'If-Match: "a"',
      ],
    ),
    odd.map((value) => `Idempotency-Key: ${Buffer.from(value.replace(/[\r\n\0]/g, '')).toString('latin1')}`),
  )
  const kind = fc.oneof(
    { weight: 8, arbitrary: fc.constant('application/json') },
    {
      weight: 1,
      arbitrary: fc.constantFrom(
        ...['application/json; charset=utf-8', 'application/json; charset=utf-16', 'application/json, text/plain'],
        ...[
          'text/plain',
          'application/x-www-form-urlencoded',
          'multipart/form-data; boundary=x',
          'nonsense',
          '\xff',
          '',
        ],
      ),
    },
  )
  const method = fc.oneof(
    { weight: 1, arbitrary: fc.constantFrom('GET', 'HEAD', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE', 'PROPFIND') },
    { weight: 1, arbitrary: fc.constantFrom('FOO', 'get', 'CONNECT', 'PRI', 'G\0T', 'POSTT', 'x'.repeat(100)) },
  )
  /** How the length of a body is told; where it is not the truth, the request is not whole. */
  const framing = fc.oneof(
    { weight: 12, arbitrary: fc.constant((body: Buffer) => framed([`Content-Length: ${body.length}`], body)) },
    { weight: 2, arbitrary: fc.constant((body: Buffer) => framed(['Transfer-Encoding: chunked'], chunked(body))) },
    {
      weight: 2,
      arbitrary: fc.constantFrom<((body: Buffer) => Framed)[]>(
        (body) => framed([`Content-Length: ${body.length + 10}`], body, false),
        (body) => framed([`Content-Length: ${Math.max(0, body.length - 1)}`], body, false),
        (body) => framed([`Content-Length: -${body.length + 1}`], body, false),
        (body) => framed(['Content-Length: 99999999999999999999'], body, false),
        (body) => framed([`Content-Length: ${body.length}`, 'Content-Length: 1'], body, false),
        (body) => framed([`Content-Length: ${body.length}`, 'Transfer-Encoding: chunked'], body, false),
        (body) => framed(['Transfer-Encoding: nonsense'], body, false),
        (body) => framed(['Transfer-Encoding: chunked'], body, false),
        (body) => framed(['Transfer-Encoding: chunked'], Buffer.concat([Buffer.from('zz\r\n'), body]), false),
        (body) => framed([], body, false),
      ),
    },
  )
  const version = fc.oneof(
    { weight: 20, arbitrary: fc.constant('HTTP/1.1') },
    { weight: 1, arbitrary: fc.constantFrom('HTTP/1.0', 'HTTP/2.0', 'HTTP/9.9', 'http/1.1', 'HTTP', '') },
  )
  const request = (verb: fc.Arbitrary<string>, target: fc.Arbitrary<string>, body: fc.Arbitrary<Buffer>) =>
    fc
      .tuple(verb, target, version, kind, fc.array(header, { maxLength: 2 }), framing, body)
      .map(([name, path, http, type, headers, frame, content]): Sent => {
        const { lines, payload, whole } = frame(content)
        const head = [`${name} ${path} ${http}`, 'Host: localhost', 'Connection: close', `Content-Type: ${type}`]
        const all = [...head, ...lines, ...headers].join('\r\n')
        return {
          bytes: Buffer.concat([Buffer.from(`${all}\r\n\r\n`, 'latin1'), payload]),
          whole: whole && http === 'HTTP/1.1' && headers.every(isHeader),
        }
      })
  const post = fc.constant('POST')
  const nothing = fc.constant(Buffer.alloc(0))
  const any = fc.oneof(
    read,
    fc.constantFrom('/accounts', '/transfers', '/transfers/batch', '/health', '/health/ready', '*'),
  )

  return fc.oneof(
    { weight: 6, arbitrary: request(post, fc.constant('/transfers'), encode(transfer)) },
    { weight: 3, arbitrary: request(post, fc.constant('/transfers/batch'), encode(batch)) },
    { weight: 3, arbitrary: request(post, fc.constant('/accounts'), encode(object(field('id'), field('balance')))) },
    { weight: 6, arbitrary: request(fc.constant('GET'), read, nothing) },
    { weight: 3, arbitrary: request(method, any, fc.oneof(nothing, encode(transfer))) },
    { weight: 1, arbitrary: request(post, read, encode(transfer)) },
    {
      weight: 1,
      arbitrary: request(
        fc.constant('GET'),
        fc.integer({ min: 1000, max: 40_000 }).map((long) => `/${'x'.repeat(long)}`),
        nothing,
      ),
    },
    {
      weight: 1,
      arbitrary: fc.uint8Array({ maxLength: 2000 }).map((bytes) => ({ bytes: Buffer.from(bytes), whole: false })),
    },
    // Several at once on one connection, the last of them rubbish.
    {
      weight: 1,
      arbitrary: fc.tuple(fc.integer({ min: 1, max: 30 }), fc.uint8Array({ maxLength: 50 })).map(([times, rest]) => ({
        bytes: Buffer.concat([
          Buffer.from('GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n'.repeat(times)),
          Buffer.from(rest),
        ]),
        whole: false,
      })),
    },
  )
}

type Framed = { lines: string[]; payload: Buffer; whole: boolean }

function framed(lines: string[], payload: Buffer, whole = true): Framed {
  return { lines, payload, whole }
}

function chunked(body: Buffer): Buffer {
  const size = body.length === 0 ? '' : `${body.length.toString(16)}\r\n`
  return Buffer.concat([Buffer.from(size), body, Buffer.from(`${size && '\r\n'}0\r\n\r\n`)])
}

/** Others may make one message of what is two, or none. */
const isHeader = (line: string) =>
  /^[\w-]+: ?[^\r\n]*$/.test(line) && !/\p{Cc}/u.test(line) && !/^(Upgrade|Connection)/.test(line)
