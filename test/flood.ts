/*
 * More requests than one process can serve are turned away before anything is done for them, until it can breathe again.
 */
import { once } from 'node:events'
import { createServer } from 'node:http'
import { type AddressInfo, connect, type Socket } from 'node:net'
import test from 'ava'
import { createHttpServer } from '../src/api/server.ts'
import { captureLog, until } from './support/harness.ts'

/** More than the crowd that the server takes for one, each of which holds up the others for a millisecond. */
const CROWD = 700
const WORK_MS = 1

type Opened = { url: string; sockets: Socket[]; close(): Promise<void> }

/** A server that works too long on each request, and connections on which nothing was asked yet. */
async function open(create: (app: () => void) => ReturnType<typeof createServer>): Promise<Opened> {
  const server = create(((_request: unknown, response: import('node:http').ServerResponse) => {
    for (const began_ms = performance.now(); performance.now() - began_ms < WORK_MS; );
    response.end('served')
  }) as () => void)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const sockets = Array.from({ length: CROWD }, () => connect(port, '127.0.0.1'))
  await Promise.all(sockets.map((socket) => once(socket, 'connect')))
  const close = async () => {
    for (const socket of sockets) socket.destroy()
    server.close()
    server.closeAllConnections()
    await once(server, 'close')
  }
  return { url: `http://127.0.0.1:${port}`, sockets, close }
}

/** Asks once on each connection, all at the same time. @returns the heads of the answers. */
async function ask(sockets: Socket[], path = '/'): Promise<string[]> {
  const answers = sockets.map(async (socket) => {
    const [bytes] = await once(socket, 'data')
    return String(bytes)
  })
  for (const socket of sockets) socket.write(`GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`)
  return await Promise.all(answers)
}

const refused = (answers: string[]) => answers.filter((answer) => answer.startsWith('HTTP/1.1 503'))

test('a crowd is turned away with a time to come back, health is not, and the next is served', async (t) => {
  const { url, sockets, close } = await open((app) => createHttpServer(app, 10_000, captureLog([])))
  t.teardown(close)
  const answers = await until(async () => {
    const some = await ask(sockets)
    return refused(some).length > 0 && some
  })
  for (const answer of refused(answers)) {
    t.regex(answer, /Retry-After: \d/)
    t.regex(answer, /Content-Type: application\/problem\+json/)
    t.regex(answer, /"type":"\/problems\/overloaded"/)
  }
  // Everybody gets an answer, and only these two.
  t.is(answers.filter((answer) => answer.startsWith('HTTP/1.1 200')).length, CROWD - refused(answers).length)

  t.is(refused(await ask(sockets, '/health')).length, 0)
  await until(async () => (await fetch(url)).status === 200)
})

test('a server that watches for nothing serves the crowd, however late', async (t) => {
  const { sockets, close } = await open((app) => createServer(app))
  t.teardown(close)
  for (let round = 0; round < 3; round++) t.is(refused(await ask(sockets)).length, 0)
})
