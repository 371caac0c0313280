/*
 * A client of the service, for measuring it
 *
 * Plain HTTP on connections that are kept alive. Told 503, it does what the answer says: it waits and repeats the
 * request, which is safe for whatever carries a key or an id.
 */
import { Agent, request } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'

type Answer = {
  /** 0 if the connection broke. */
  status: number
  headers: Record<string, string | string[] | undefined>
  body: unknown
  /** Times it was told to come back later. */
  repeats: number
}

type Client = {
  send(method: 'GET' | 'POST', path: string, body?: object, headers?: Record<string, string>): Promise<Answer>
  close(): void
}

const REPEATS = 30

export function createClient(url: string, connections: number): Client {
  const agent = new Agent({ keepAlive: true, maxSockets: connections })

  async function send(...[method, path, body, headers = {}]: Parameters<Client['send']>): Promise<Answer> {
    for (let repeats = 0; ; repeats++) {
      const answer = await sendOnce(method, path, body && JSON.stringify(body), headers)
      if ((answer.status !== 503 && answer.status !== 0) || repeats === REPEATS) return { ...answer, repeats }
      await sleep(1000 * Number(answer.headers['retry-after'] ?? 1))
    }
  }

  function sendOnce(method: string, path: string, body: string | undefined, headers: Record<string, string>) {
    return new Promise<Omit<Answer, 'repeats'>>((resolve) => {
      const fail = (error: Error) => resolve({ status: 0, headers: {}, body: error.message })
      const content = body === undefined ? {} : { 'content-type': 'application/json', 'content-length': body.length }
      const sent = request(url + path, { method, agent, headers: { ...content, ...headers } }, (answer) => {
        const chunks: Buffer[] = []
        answer.on('data', (chunk: Buffer) => chunks.push(chunk))
        answer.once('error', fail)
        answer.once('end', () => {
          const text = Buffer.concat(chunks).toString()
          const isJson = String(answer.headers['content-type']).includes('json')
          resolve({ status: answer.statusCode ?? 0, headers: answer.headers, body: isJson ? JSON.parse(text) : text })
        })
      })
      sent.once('error', fail)
      sent.end(body)
    })
  }

  return { send, close: () => agent.destroy() }
}
