/*
 * A proxy between the service and a store, so that the store can go away for this service alone, in every way a store
 * goes away: refusing, cutting, falling silent, or forgetting connections that look alive.
 */
import { once } from 'node:events'
import { connect, createServer, type Server, type Socket } from 'node:net'

export type StoreProxy = {
  /** The store's URL, with the proxy's address in it. */
  url: string
  /** Cuts every connection and refuses new ones, as a server that is down does. */
  refuse(): Promise<void>
  /** Cuts every connection; new ones are let through. */
  cut(): void
  /** Holds back every byte, on new connections too, as a server that hangs does. */
  stall(): void
  /** Never passes another byte on the connections there are, and does not close them; new ones are let through. */
  lose(): void
  /** Cuts as `cut`, when the next whole call is answered: the store has done it, and nobody is told. Fulfilled then. */
  cutAnswer(): Promise<void>
  /** Ends refusing and stalling: what was held back arrives. */
  restore(): Promise<void>
  /** How many there are now. */
  connections(): number
  close(): Promise<void>
}

/** `asked`: a call has gone through since the last answer. */
type Pair = { near: Socket; far: Socket; lost: boolean; asked: boolean }

/** @param calls what a request holds that is a call; `onAnswer` hears of each that is answered. */
export async function startProxy(
  storeUrl: string,
  calls?: { marked: string; onAnswer: () => void },
): Promise<StoreProxy> {
  const { hostname, port, protocol } = new URL(storeUrl)
  const store = { host: hostname, port: Number(port) || (protocol.startsWith('redis') ? 6379 : 5432) }
  const pairs = new Set<Pair>()
  let stalled = false
  let cutting: (() => void) | undefined
  let listener = await listen(0)
  const address = listener.address()
  if (address === null || typeof address === 'string') throw new Error('the proxy has no port')
  const own = address.port

  async function listen(at: number): Promise<Server> {
    const server = createServer((near) => join({ near, far: connect(store), lost: false, asked: false }))
    server.listen(at, '127.0.0.1')
    await once(server, 'listening')
    return server
  }

  function join(pair: Pair): void {
    pairs.add(pair)
    for (const [from, to] of [
      [pair.near, pair.far],
      [pair.far, pair.near],
    ] as const) {
      from.setNoDelay(true)
      from.on('error', () => {})
      from.on('data', (bytes) => {
        if (calls && from === pair.near && bytes.includes(calls.marked)) pair.asked = true
        if (calls && from === pair.far && pair.asked) {
          pair.asked = false
          if (cutting) return cut()
          calls.onAnswer()
        }
        to.write(bytes)
      })
      from.once('close', () => {
        pairs.delete(pair)
        to.destroy()
      })
    }
    flow(pair)
  }

  function flow({ near, far, lost }: Pair): void {
    for (const socket of [near, far]) {
      if (stalled || lost) socket.pause()
      else socket.resume()
    }
  }

  function cut(): void {
    cutting?.()
    cutting = undefined
    for (const { near, far } of pairs) {
      near.resetAndDestroy()
      far.destroy()
    }
    pairs.clear()
  }

  function cutAnswer(): Promise<void> {
    return new Promise((done) => {
      cutting = done
    })
  }

  async function refuse(): Promise<void> {
    if (!listener.listening) return
    const closed = once(listener, 'close')
    listener.close()
    cut()
    await closed
  }

  function stall(): void {
    stalled = true
    for (const pair of pairs) flow(pair)
  }

  function lose(): void {
    for (const pair of pairs) {
      pair.lost = true
      flow(pair)
    }
  }

  async function restore(): Promise<void> {
    stalled = false
    for (const pair of pairs) flow(pair)
    if (!listener.listening) listener = await listen(own)
  }

  const url = new URL(storeUrl)
  url.hostname = '127.0.0.1'
  url.port = String(own)
  return {
    url: url.href,
    refuse,
    cut,
    cutAnswer,
    stall,
    lose,
    restore,
    connections: () => pairs.size,
    close: refuse,
  }
}
