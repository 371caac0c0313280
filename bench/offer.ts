/*
 * The offer
 *
 * Like load.ts, autocannon in a process of its own, but at a rate that does not wait for the service: each connection
 * sends its share of it every second, as long as the last request is answered. Kept is what each answer was and how long
 * it took, by status, and the id of every transfer accepted, so that each can be asked of the ledger: a count would hide
 * a lost one behind one whose answer came after the end.
 */
import autocannon from 'autocannon'
import { type Child, LOAD_FLAGS, serveQuestions, startChild } from './child.ts'
import type { LoadRequest } from './load.ts'
import { percentile } from './waiter.ts'

/** `rate`: requests per second of all connections together. */
type OfferSpec = { url: string; connections: number; rate: number; seconds: number; requests: LoadRequest[] }

export type Answers = { count: number; p50_ms: number; p99_ms: number }

export type OfferResult = {
  /** Requests, answered or not when the time was over. */
  sent: number
  /** By status. */
  answers: Record<string, Answers>
  /** Connections reset or timed out. */
  errors: number
  /** Transfers accepted. */
  ids: string[]
  /** In ms since 1970. */
  began_at: number
  ended_at: number
}

export type Offer = Child & { run(spec: OfferSpec): Promise<OfferResult> }

export async function startOffer(): Promise<Offer> {
  const child = await startChild('bench/offer.ts', {}, LOAD_FLAGS)
  return { ...child, run: async (spec) => (await child.ask(spec)) as OfferResult }
}

function run({ url, connections, rate, seconds, requests }: OfferSpec): Promise<OfferResult> {
  const ids: string[] = []
  const durations = new Map<number, number[]>()
  const onResponse = (status: number, body: string) => {
    const id = status < 300 ? /"id":"([^"]+)"/.exec(body)?.[1] : undefined
    if (id) ids.push(id)
  }
  const headers = { 'content-type': 'application/json' }
  const prepared = requests.map((request) => ({ ...request, headers, onResponse }))
  const each = Math.max(1, Math.floor(prepared.length / connections))
  let client_number = 0
  let sent = 0
  return new Promise((resolve, reject) => {
    const instance = autocannon(
      {
        url,
        connections,
        overallRate: rate,
        duration: seconds,
        timeout: 30,
        sampleInt: 100,
        setupClient: (client) => {
          const from = (client_number++ * each) % prepared.length
          client.setRequests(prepared.slice(from, from + each))
          // autocannon's own count takes each connection's share of the first second for sent.
          client.addListener('request', () => {
            sent += 1
          })
        },
      },
      (error: Error | null, result) => {
        if (error) return reject(error)
        const answers = Object.fromEntries([...durations].map(([status, took_ms]) => [status, sum(took_ms)]))
        const [began_at, ended_at] = [result.start.getTime(), result.finish.getTime()]
        resolve({ sent, answers, errors: result.errors, ids, began_at, ended_at })
      },
    )
    instance.on('response', (_client, status, _bytes, duration_ms) => {
      const sofar = durations.get(status)
      if (sofar) sofar.push(duration_ms)
      else durations.set(status, [duration_ms])
    })
  })
}

function sum(took_ms: number[]): Answers {
  took_ms.sort((a, b) => a - b)
  return { count: took_ms.length, p50_ms: percentile(took_ms, 50), p99_ms: percentile(took_ms, 99) }
}

if (import.meta.main) await serveQuestions(run)
