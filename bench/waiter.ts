/*
 * Waiting clients
 *
 * How long from sending a transfer until its client knows that it is posted: a few real clients that ask to wait for
 * the decision, one transfer after the other, while the load is on.
 */
import { Agent, request } from 'node:http'
import { AMOUNT, type Pair } from './workload.ts'

export type Waits = {
  /** How long each took, in ms, ascending. */
  durations_ms: number[]
  /** Answers without a decision. */
  undecided: number
}

/** @param options.pair draws the next transfer. @returns how to stop: waits in hand are finished. */
export function startWaiters(options: { url: string; count: number; pair: () => Pair }): () => Promise<Waits> {
  const { url, count, pair } = options
  const agent = new Agent({ keepAlive: true, maxSockets: count })
  const waits: Waits = { durations_ms: [], undecided: 0 }
  let stopped = false

  const client = async () => {
    while (!stopped) {
      const began_ms = performance.now()
      const status = await send(agent, `${url}/transfers`, JSON.stringify({ ...pair(), amount: AMOUNT }))
      if (status === 200) waits.durations_ms.push(performance.now() - began_ms)
      else waits.undecided += 1
    }
  }
  const clients = Promise.all(Array.from({ length: count }, client))

  return async () => {
    stopped = true
    await clients
    agent.destroy()
    waits.durations_ms.sort((a, b) => a - b)
    return waits
  }
}

/** @returns the status; 0 if there was no answer. */
function send(agent: Agent, url: string, body: string): Promise<number> {
  return new Promise((resolve) => {
    const headers = { 'content-type': 'application/json', 'content-length': body.length, prefer: 'wait=30' }
    const sent = request(url, { method: 'POST', agent, headers }, (answer) => {
      answer.resume()
      answer.once('end', () => resolve(answer.statusCode ?? 0))
    })
    sent.once('error', () => resolve(0))
    sent.end(body)
  })
}

/** The nearest-rank percentile of ascending values. */
export function percentile(ascending: readonly number[], percent: number): number {
  if (ascending.length === 0) return Number.NaN
  return ascending[Math.max(0, Math.ceil((percent / 100) * ascending.length) - 1)] ?? Number.NaN
}
