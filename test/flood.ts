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
async function open(create: (app: () => void) => ReturnType<typeof createServer>, crowd = CROWD): Promise<Opened> {
  const server = create(((_request: unknown, response: import('node:http').ServerResponse) => {
    for (const began_ms = performance.now(); performance.now() - began_ms < WORK_MS; );
    response.end('served')
  }) as () => void)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const sockets = await join(port, crowd)
  const close = async () => {
    for (const socket of sockets) socket.destroy()
    server.close()
    server.closeAllConnections()
    await once(server, 'close')
  }
  return { url: `http://127.0.0.1:${port}`, sockets, close }
}

async function join(port: number, count: number): Promise<Socket[]> {
  const sockets = Array.from({ length: count }, () => connect(port, '127.0.0.1'))
  await Promise.all(sockets.map((socket) => once(socket, 'connect')))
  return sockets
}

const question = (path: string) => `GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`

/** Asks once on each connection, all at the same time. @returns the heads of the answers. */
async function ask(sockets: Socket[], path = '/'): Promise<string[]> {
  const answers = sockets.map(async (socket) => {
    const [bytes] = await once(socket, 'data')
    return String(bytes)
  })
  for (const socket of sockets) socket.write(question(path))
  return await Promise.all(answers)
}

/** @returns how often one of a crowd that asks without a pause is answered until each of as many newcomers is. */
async function roundsUntilServed({ url, sockets }: Opened, newcomers: number): Promise<number> {
  let answered = 0
  for (const socket of sockets) socket.on('data', () => socket.write(question('/')))
  sockets[0]?.on('data', () => answered++)
  for (const socket of sockets) socket.write(question('/'))
  await until(() => answered > 2)
  const before = answered
  const joined = await join(Number(new URL(url).port), newcomers)
  await ask(joined)
  for (const socket of joined) socket.destroy()
  return answered - before
}

const refused = (answers: string[]) => answers.filter((answer) => answer.startsWith('HTTP/1.1 503'))

test.serial('a crowd is turned away with a time to come back, health is not, and the next is served', async (t) => {
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

test.serial('a server that watches for nothing serves the crowd, however late', async (t) => {
  const { sockets, close } = await open((app) => createServer(app))
  t.teardown(close)
  for (let round = 0; round < 3; round++) t.is(refused(await ask(sockets)).length, 0)
})

test.serial('who connects while a crowd asks without a pause is not kept waiting behind it', async (t) => {
  const opened = await open((app) => createHttpServer(app, 10_000, captureLog([])))
  t.teardown(opened.close)
  const rounds = await roundsUntilServed(opened, 100)
  t.true(rounds < 25, `${rounds} rounds`)
})

test.serial('a server that watches for nothing accepts one in each turn', async (t) => {
  const opened = await open((app) => createServer(app), 100)
  t.teardown(opened.close)
  const rounds = await roundsUntilServed(opened, 25)
  t.true(rounds > 12, `${rounds} rounds`)
})
