/*
 * A client of the service, for tests: sends whatever it is told to, valid or not, and gives back what came. Every
 * answer is held against the OpenAPI document: one that is not in it fails the test, whatever it is about.
 */
import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { holdToDocument } from './contract.ts'
import { until } from './harness.ts'

/** Every member that a test looks at, of whatever answer. */
export type Body = Partial<{
  id: string
  source: string
  destination: string
  amount: string
  index: number
  status: string | number
  reason: string
  recorded_at: string
  job: string
  ids: string[]
  jobs: string[]
  account: string
  balance: string
  at: string
  created_at: string
  funding: Body
  next_cursor: string | null
  state: string
  attempts: number
  posted: number | null
  rejected: number | null
  type: string
  title: string
  detail: string
  request_id: string
  errors: { pointer: string; detail?: string; fields?: string[] }[]
  fields: string[]
  down: string[]
}>

/** A line of a statement. */
export type Line = { direction: string; account: string } & Body
export type Statement = { account: string; transfers: Line[]; next_cursor: string | null }
export type Job = Body & {
  transfers: number
  submitted_at: string
  started_at: string | null
  finished_at: string | null
  failure: string | null
}

export type Answer<Content = Body> = { status: number; headers: Headers; text: string; body: Content }

export type Client = {
  call<Content = Body>(method: string, path: string, options?: Sent): Promise<Answer<Content>>
  get<Content = Body>(path: string, headers?: Record<string, string>): Promise<Answer<Content>>
  /** A body that is neither text nor bytes is sent as JSON. */
  post<Content = Body>(path: string, body: unknown, headers?: Record<string, string>): Promise<Answer<Content>>
  /** Opens an account and waits until it has its money. @returns its id. */
  open(balance?: string): Promise<string>
  /** Submits a transfer and waits for the decision. */
  transfer(source: string, destination: string, amount: string, key?: string): Promise<Body>
}

type Sent = { body?: unknown; headers?: Record<string, string> }

export function createClient(url: string): Client {
  async function call<Content>(method: string, path: string, { body, headers = {} }: Sent = {}) {
    const answer = await fetch(`${url}${path}`, {
      method,
      headers: { ...(body === undefined ? {} : { 'Content-Type': 'application/json' }), ...headers },
      ...(body === undefined
        ? {}
        : { body: typeof body === 'string' || body instanceof Uint8Array ? body : JSON.stringify(body) }),
    })
    const text = await answer.text()
    const content = /json/.test(answer.headers.get('Content-Type') ?? '') && text ? JSON.parse(text) : {}
    holdToDocument(method, path, { status: answer.status, headers: answer.headers, text })
    return { status: answer.status, headers: answer.headers, text, body: content as Content }
  }

  const get: Client['get'] = (path, headers = {}) => call('GET', path, { headers })
  const post: Client['post'] = (path, body, headers = {}) => call('POST', path, { body, headers })

  /** A machine that runs several test files at a time answers 503 now and then: what may be repeated is. */
  async function patiently(send: () => Promise<Answer>): Promise<Answer> {
    for (let attempt = 1; ; attempt++) {
      const answer = await send()
      if (answer.status !== 503 || attempt === 20) return answer
      await sleep(200)
    }
  }

  async function open(balance?: string): Promise<string> {
    const id = randomUUID()
    const asked = { id, ...(balance && { balance }) }
    const { status, text, body } = await patiently(() => post('/accounts', asked, { Prefer: 'wait=20' }))
    // An attempt that was answered 503 has got through after all.
    const funded = async () => Number((await patiently(() => get(`/accounts/${id}/balance`))).body.balance) > 0
    if (status === 409) await until(async () => !balance || (await funded()))
    else if (status !== 201 || (balance && body.funding?.status !== 'posted'))
      throw new Error(`not opened: ${status} ${text}`)
    return id
  }

  async function transfer(source: string, destination: string, amount: string, key?: string): Promise<Body> {
    const headers = { Prefer: 'wait=20', 'Idempotency-Key': key ?? randomUUID() }
    const { status, text, body } = await patiently(() => post('/transfers', { source, destination, amount }, headers))
    if (status !== 200) throw new Error(`not decided: ${status} ${text}`)
    return body
  }

  return { call, get, post, open, transfer }
}

/** As a header carries it: the bytes of its UTF-8, one character each. */
export function headerText(text: string): string {
  return Buffer.from(text, 'utf8').toString('latin1')
}
