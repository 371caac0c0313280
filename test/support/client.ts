/*
 * A client of the service, for tests: sends whatever it is told to, valid or not, and gives back what came. Every
 * answer is held against the OpenAPI document: one that is not in it fails the test, whatever it is about.
 *
 * On a machine that runs several test files at a time a store is late now and then, and the service answers 503, as it
 * promises to. So the client is patient: what is safe to repeat, by that same promise, it repeats. What is not, it
 * throws, and whoever sent it begins anew, with `patiently`. A test about 503s has a client that is not patient.
 */
import { randomUUID } from 'node:crypto'
import { holdToDocument } from './contract.ts'
import { insist, until } from './harness.ts'

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
  /** @throws Unavailable if the client is patient and it is not safe to send this again. */
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

/** @param options.patient unless false, no 503 is given back that says that a store was late (`overloaded` is). */
export function createClient(url: string, options: { patient?: boolean } = {}): Client {
  const { patient = true } = options

  async function send<Content>(method: string, path: string, { body, headers = {} }: Sent): Promise<Answer<Content>> {
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
    if (patient) throwIfUnavailable({ status: answer.status, text })
    return { status: answer.status, headers: answer.headers, text, body: content as Content }
  }

  const call: Client['call'] = <Content>(method: string, path: string, sent: Sent = {}) => {
    const ask = () => send<Content>(method, path, sent)
    return isSafe(method, path, sent) ? patiently(ask) : ask()
  }
  const get: Client['get'] = (path, headers = {}) => call('GET', path, { headers })
  const post: Client['post'] = (path, body, headers = {}) => call('POST', path, { body, headers })

  async function open(balance?: string): Promise<string> {
    const id = randomUUID()
    const asked = { id, ...(balance && { balance }) }
    const { status, text, body } = await post('/accounts', asked, { Prefer: 'wait=20' })
    const funded = async () => !balance || Number((await get(`/accounts/${id}/balance`)).body.balance) > 0
    // An attempt that was answered 503 has got through after all.
    if (status === 409) await until(funded)
    else if (status !== 201 || (balance && body.funding?.status !== 'posted'))
      throw new Error(`not opened: ${status} ${text}`)
    return id
  }

  async function transfer(source: string, destination: string, amount: string, key?: string): Promise<Body> {
    const headers = { Prefer: 'wait=20', 'Idempotency-Key': key ?? randomUUID() }
    const { status, text, body } = await post('/transfers', { source, destination, amount }, headers)
    if (status !== 200) throw new Error(`not decided: ${status} ${text}`)
    return body
  }

  return { call, get, post, open, transfer }
}

/**
 * By the service's promise, everything but a transfer without a key. What got through after all has another answer the
 * second time: of a transfer the replay of its decision, of an account with an id that it exists.
 */
function isSafe(method: string, path: string, { body, headers = {} }: Sent): boolean {
  if (method !== 'POST' || !path.startsWith('/transfers')) return true
  if (path === '/transfers') return 'Idempotency-Key' in headers
  const transfers = (body as { transfers?: unknown } | undefined)?.transfers
  return Array.isArray(transfers) && transfers.every((item: { key?: string }) => item.key !== undefined)
}

/** A store was late. The answer to HEAD does not say so in words. */
export function isUnavailable({ status, text }: { status: number; text: string }): boolean {
  return status === 503 && (text === '' || text.includes('"/problems/unavailable"'))
}

class Unavailable extends Error {
  override name = 'Unavailable'
}

/** For those who send by other means, patiently. */
export function throwIfUnavailable(answer: { status: number; text: string }): void {
  if (isUnavailable(answer)) throw new Unavailable(answer.text)
}

/** Does all of it again where a store was late: what is not safe to repeat, on accounts of which nothing is expected yet. */
export function patiently<Result>(work: () => Promise<Result>): Promise<Result> {
  return insist(work, (error) => error instanceof Unavailable)
}

/** As a header carries it: the bytes of its UTF-8, one character each. */
export function headerText(text: string): string {
  return Buffer.from(text, 'utf8').toString('latin1')
}
