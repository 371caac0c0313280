/*
 * The HTTP server
 *
 * What happens to a request before and beside the app: bounds on its size and time, an answer to what is no HTTP, and
 * an end to more requests than one process can serve. Whatever can still be answered is answered with a problem.
 */
import { randomUUID } from 'node:crypto'
import type { IncomingMessage, RequestListener, Server, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import type { Logger } from 'pino'
import { http } from '../lean.ts'
import { describe, Problem } from './problem.ts'

/** Bytes of address and header together. */
const HEADER_LIMIT = 16 * 1024

/** @param connectionLimit connections open at a time; any more are closed at once. */
export function createHttpServer(app: RequestListener, connectionLimit: number, log: Logger): Server {
  const server = http.createServer({
    maxHeaderSize: HEADER_LIMIT,
    headersTimeout: 10_000,
    requestTimeout: 30_000,
    // How often the two are looked after.
    connectionsCheckingInterval: 2000,
    keepAliveTimeout: 65_000,
    // Refused with a document instead: see problem.ts.
    requireHostHeader: false,
  })
  server.maxConnections = connectionLimit
  const isTooLate = watchTurns(server)

  const handle: RequestListener = (request, response) => {
    if (request.url?.startsWith('/health') || !isTooLate(response)) app(request, response)
  }
  server.on('request', handle)
  // No body is asked for before it is wanted (see body.ts), so nobody knows whether one is still to come afterwards.
  server.on('checkContinue', (request: IncomingMessage, response: ServerResponse) => {
    response.shouldKeepAlive = false
    handle(request, response)
  })
  // Of an expectation that nobody knows (RFC 9110, 10.1.1), the request is what counts.
  server.on('checkExpectation', handle)
  server.on('clientError', (error: NodeJS.ErrnoException, socket: Duplex) => refuse(error, socket, log))
  server.on('connect', (_request, socket: Duplex) => {
    socket.on('error', () => {})
    write(socket, new Problem('malformed-request', 'this is no proxy: there is no CONNECT'))
  })
  return server
}

/**
 * What one turn of the event loop submits goes into the queue when the turn is over. So once a crowd has had this long,
 * the rest of the turn is turned away, before anything is done for it and at a fraction of the cost, and those already
 * taken on are answered well within a second. A pause without a crowd is not the requests' doing.
 */
const TURN_LIMIT_MS = 50
const CROWD = 300
/**
 * libuv accepts one connection each time it polls (since 1.45), and turns of a crowd are long: a few dozen in a second.
 * Nobody who waits for an answer asks again, so while connections come in, the refusals wait, and the turns are short.
 */
const ACCEPT_LIMIT_MS = 200

/** @returns takes what comes too late in its turn, and answers it; false leaves the request to the app. */
function watchTurns(server: Server): (response: ServerResponse) => boolean {
  let arrived = 0
  let began_ms = 0
  let late: ServerResponse[] = []
  let connected = false
  server.on('connection', () => {
    connected = true
  })

  function end(): void {
    if (late.length === 0) arrived = 0
  }

  /** When the turn is over: answered within, who is turned away would be back in the same turn, and it would not end. */
  function turnAway(ended_ms = performance.now()): void {
    if (connected && performance.now() - ended_ms < ACCEPT_LIMIT_MS) {
      connected = false
      setImmediate(turnAway, ended_ms)
      return
    }
    for (const response of late) refuseLate(response)
    late = []
    arrived = 0
  }

  return (response) => {
    if (arrived === 0) {
      began_ms = performance.now()
      setImmediate(end)
    }
    arrived += 1
    if (arrived <= CROWD || performance.now() - began_ms <= TURN_LIMIT_MS) return false
    if (late.length === 0) setImmediate(turnAway)
    late.push(response)
    return true
  }
}

function refuseLate(response: ServerResponse): void {
  const id = randomUUID()
  const body = TOO_LATE.replace(NO_ID, id)
  const headers = ['Content-Type', 'application/problem+json', 'Content-Length', `${body.length}`]
  response.writeHead(503, [...headers, 'X-Request-ID', id, 'Retry-After', '1']).end(body)
}

const NO_ID = '00000000-0000-0000-0000-000000000000'
/** Written once: an error made for each would keep a stack for each, and cost more than the rest of refusing it. */
const TOO_LATE = JSON.stringify(
  describe(new Problem('overloaded', 'too many requests at a time: repeat this one a little later'), NO_ID),
)

/** What cannot be parsed, or does not arrive. The connection is of no use afterwards. */
function refuse(error: NodeJS.ErrnoException, socket: Duplex, log: Logger): void {
  const current = responseUnderWay(socket)
  if (!socket.writable || error.code === 'ECONNRESET' || error.code === 'EPIPE' || current?.headersSent) {
    socket.destroy()
  } else if (current?.req.complete) {
    // Something else came after a whole request: that one may be carried out by now, and gets its own answer.
    current.shouldKeepAlive = false
    current.once('close', () => socket.destroy())
  } else {
    const problem = unreadable(error)
    log.debug({ type: problem.type, cause: String(error) }, problem.message)
    write(socket, problem)
  }
}

function unreadable(error: NodeJS.ErrnoException): Problem {
  switch (error.code) {
    case 'HPE_HEADER_OVERFLOW':
      return new Problem('header-too-large', `send at most ${HEADER_LIMIT / 1024} KiB of address and header together`)
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return new Problem('request-timeout', 'send the whole header within 10 s, and the whole request within 30 s')
    case 'HPE_INVALID_METHOD':
      return new Problem('malformed-request', 'send a method of HTTP, such as GET or POST')
    default: {
      const reason = 'reason' in error ? `: ${String(error.reason)}` : ''
      return new Problem('malformed-request', `send HTTP/1.1 as in RFC 9112${reason}`)
    }
  }
}

/** Node keeps it under a name of its own (and so do others who answer `clientError`). */
function responseUnderWay(socket: Duplex): ServerResponse | undefined {
  const current = '_httpMessage' in socket ? socket._httpMessage : undefined
  return current instanceof http.ServerResponse ? current : undefined
}

function write(socket: Duplex, problem: Problem): void {
  const id = randomUUID()
  const document = describe(problem, id)
  const body = JSON.stringify(document)
  const lines = [
    `HTTP/1.1 ${document.status} ${document.title}`,
    'Content-Type: application/problem+json',
    `Content-Length: ${Buffer.byteLength(body)}`,
    `X-Request-ID: ${id}`,
    'Connection: close',
  ]
  socket.end(`${lines.join('\r\n')}\r\n\r\n${body}`, () => socket.destroy())
}
