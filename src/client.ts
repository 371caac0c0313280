/*
 * A typed client
 *
 * Over fetch, and derived from the table of routes by types alone: nothing is generated, nothing of the server is
 * loaded. What a route takes and answers is checked where the call is written.
 *
 *   const client = createClient('http://127.0.0.1:3000')
 *   const answer = await client.call('POST /transfers', { body: { source, destination, amount: '12.50' } })
 *   if (answer.ok) console.log(answer.body.status)
 *   else console.error(answer.body.detail)
 */
import type { z } from 'zod'
import type { routes } from './api/route.ts'
import type { ProblemBody } from './api/schema.ts'

type Routes = typeof routes
type RouteName = keyof Routes

/** A part of the request, optional where nothing in it is required. */
type Part<Name extends RouteName, Key extends string> =
  Routes[Name] extends Record<Key, infer Schema extends z.ZodType>
    ? Record<never, never> extends z.input<Schema>
      ? { [K in Key]?: z.input<Schema> }
      : { [K in Key]: z.input<Schema> }
    : Record<never, never>

type Sent<Name extends RouteName> = Part<Name, 'params'> &
  Part<Name, 'query'> &
  Part<Name, 'headers'> &
  Part<Name, 'body'>

type Answers<Name extends RouteName> = Routes[Name]['answers']
type BodyOf<Answer> = Answer extends { body: infer Schema extends z.ZodType } ? z.output<Schema> : undefined

/** What comes back: by status where it went well, a problem where it did not. */
type Received<Name extends RouteName> =
  | {
      [Status in keyof Answers<Name>]: {
        ok: true
        status: Status
        headers: Headers
        body: BodyOf<Answers<Name>[Status]>
      }
    }[keyof Answers<Name>]
  | { ok: false; status: number; headers: Headers; body: ProblemBody }

export type Client = {
  /** @throws what fetch throws: the service was not reached, or the connection broke. */
  call<Name extends RouteName>(
    name: Name,
    ...sent: Record<never, never> extends Sent<Name> ? [Sent<Name>?] : [Sent<Name>]
  ): Promise<Received<Name>>
}

/**
 * @param url of the service, without a slash at the end.
 * @param options.token sent as `Authorization: Bearer`.
 * @param options.fetch for whoever wants to repeat, count or trace requests.
 */
export function createClient(url: string, options: { token?: string; fetch?: typeof fetch } = {}): Client {
  const { token, fetch: send = fetch } = options

  const call = async (name: string, sent: Loose = {}) => {
    const [method = '', template = ''] = name.split(' ')
    const path = template.replace(/\{(\w+)\}/g, (_, key: string) => encodeURIComponent(sent.params?.[key] ?? ''))
    const query = new URLSearchParams(defined(sent.query)).toString()
    const headers = new Headers(Object.entries(defined(sent.headers)).map(([key, value]) => [key, headerText(value)]))
    if (token !== undefined) headers.set('Authorization', `Bearer ${token}`)
    if (sent.body !== undefined) headers.set('Content-Type', 'application/json')
    const body = sent.body === undefined ? null : JSON.stringify(sent.body)

    const answer = await send(`${url}${path}${query && `?${query}`}`, { method, headers, body })
    const text = await answer.text()
    const isJson = /[/+]json\b/.test(answer.headers.get('Content-Type') ?? '')
    const content: unknown = text === '' ? undefined : isJson ? JSON.parse(text) : text
    return { ok: answer.status < 400, status: answer.status, headers: answer.headers, body: content }
  }
  return { call: call as Client['call'] }
}

type Loose = {
  params?: Record<string, string>
  query?: Record<string, string | undefined>
  headers?: Record<string, string | undefined>
  body?: unknown
}

function defined(given: Record<string, string | undefined> = {}): Record<string, string> {
  return Object.fromEntries(
    Object.entries(given).flatMap(([key, value]) => (value === undefined ? [] : [[key, value]])),
  )
}

/** As a header carries UTF-8: one character for each byte. */
function headerText(text: string): string {
  return String.fromCharCode(...new TextEncoder().encode(text))
}
