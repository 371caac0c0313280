/*
 * The load
 *
 * autocannon in a process of its own: a fixed number of connections, each sending its next request as soon as the last
 * one is answered, round and round its own part of the requests given. What is counted is answers: a transfer that is
 * accepted is not yet posted, that is counted in the ledger.
 */
import autocannon from 'autocannon'
import { type Child, LOAD_FLAGS, serveQuestions, startChild } from './child.ts'

export type LoadRequest = { method: 'GET' | 'POST'; path: string; body?: string }

/** `amount`: requests to send in all, instead of for how long. */
export type LoadSpec = { url: string; connections: number; seconds: number; amount?: number; requests: LoadRequest[] }

/** Moments are in ms since 1970, to be held against those in the ledger. */
export type LoadResult = {
  ok: number
  non_2xx: number
  /** Connections reset or timed out. */
  errors: number
  first_at: number
  last_at: number
  latency_p50_ms: number
  latency_p99_ms: number
}

export type Load = Child & { run(spec: LoadSpec): Promise<LoadResult> }

export async function startLoad(): Promise<Load> {
  const child = await startChild('bench/load.ts', {}, LOAD_FLAGS)
  return { ...child, run: async (spec) => (await child.ask(spec)) as LoadResult }
}

function run({ url, connections, seconds, amount, requests }: LoadSpec): Promise<LoadResult> {
  const prepared = requests.map((request) => ({ ...request, headers: { 'content-type': 'application/json' } }))
  // Each connection has its own requests, prepared once: building them while they are sent would take longer than all
  // the rest of autocannon. Of few requests (large ones), all connections send the same.
  const each = Math.max(1, Math.floor(prepared.length / connections))
  let client_number = 0
  let first_at = 0
  return new Promise((resolve, reject) => {
    const instance = autocannon(
      {
        url,
        connections,
        ...(amount === undefined ? { duration: seconds } : { amount }),
        timeout: 30,
        // How often it looks whether the time is over.
        sampleInt: 100,
        setupClient: (client) => {
          const from = (client_number++ * each) % prepared.length
          client.setRequests(prepared.slice(from, from + each))
        },
      },
      (error: Error | null, result) => {
        if (error) return reject(error)
        resolve({
          ok: result['2xx'],
          non_2xx: result.non2xx,
          errors: result.errors + result.timeouts,
          first_at,
          last_at: result.finish.getTime(),
          latency_p50_ms: result.latency.p50,
          latency_p99_ms: result.latency.p99,
        })
      },
    )
    instance.once('response', () => {
      first_at = Date.now()
    })
  })
}

if (import.meta.main) await serveQuestions(run)
