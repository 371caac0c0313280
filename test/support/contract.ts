/*
 * The contract
 *
 * Holds answers against the OpenAPI document, with a validator that knows nothing of the schemas it was made of: status,
 * content type, body, and every header. client.ts does so with whatever it receives, so all tests prove the document,
 * and none can answer anything that is not in it.
 */
import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js'
import formats from 'ajv-formats'
import { makeDocument } from '../../src/api/openapi.ts'

type Header = { required?: boolean; schema: object }
type Response = { headers: Record<string, Header>; content?: Record<string, { schema: object }> }
type Document = {
  paths: Record<string, Record<string, { responses: Record<string, Response> }>>
  components: { schemas: Record<string, object> }
}

/** As a client reads it. */
export const document = JSON.parse(JSON.stringify(makeDocument())) as Document

const ajv = new Ajv2020({ strict: false, allErrors: true })
formats.default(ajv)
ajv.addSchema(document, 'document')

/** What HTTP, its caches and its security need on any answer, and no client of the API reads. */
const COMMON = new Set([
  ...['cache-control', 'connection', 'content-length', 'content-type', 'date', 'keep-alive', 'last-modified', 'vary'],
  ...['content-security-policy', 'cross-origin-opener-policy', 'cross-origin-resource-policy', 'origin-agent-cluster'],
  ...['referrer-policy', 'x-content-type-options', 'x-dns-prefetch-control', 'x-download-options', 'x-frame-options'],
  ...['x-permitted-cross-domain-policies', 'x-xss-protection', 'transfer-encoding'],
])

/** Where there is no such operation: the types of problem, whatever was asked. */
const ASTRAY = ['not-found', 'method-not-allowed', 'unauthenticated', 'forbidden', 'malformed-request', 'overloaded']

/** What bull-board answers there is its own affair. */
const BULL_BOARD = /^\/dashboard\//

export type Seen = { status: number; headers: Headers; text: string }

/** @throws Error that says in what the answer is not as documented. */
export function holdToDocument(method: string, url: string, seen: Seen): void {
  const wrong = differences(method, url, seen)
  if (wrong.length === 0) return
  throw new Error(
    `${method} ${url} answered what is not in the document:\n${wrong.join('\n')}\n${seen.status} ${seen.text}`,
  )
}

function differences(method: string, url: string, seen: Seen): string[] {
  if (BULL_BOARD.test(url)) return []
  const operation = operationOf(method === 'HEAD' ? 'GET' : method, url.split('?')[0] ?? '')
  if (!operation) return astray(method, seen)
  const response = operation.operation.responses[seen.status]
  if (!response) return [`no status ${seen.status}`]
  const pointer = `${operation.pointer}/responses/${seen.status}`
  return [...headersWrong(response, pointer, seen.headers), ...bodyWrong(response, pointer, method, seen)]
}

/** The operation that the document has for this address: one without parameters goes before one with. */
function operationOf(method: string, pathname: string) {
  const templates = Object.keys(document.paths).sort((a, b) => parameters(a) - parameters(b))
  const template = templates.find((candidate) =>
    new RegExp(`^${candidate.replaceAll('.', '\\.').replace(/\{\w+\}/g, '[^/]+')}/?$`).test(pathname),
  )
  const operation = template && document.paths[template]?.[method.toLowerCase()]
  return operation && { operation, pointer: `/paths/${encoded(template)}/${method.toLowerCase()}` }
}

const parameters = (template: string) => template.split('{').length
const encoded = (step: string) => encodeURIComponent(step.replaceAll('~', '~0').replaceAll('/', '~1'))

function headersWrong(response: Response, pointer: string, headers: Headers): string[] {
  const wrong: string[] = []
  const documented = new Map(
    Object.entries(response.headers).map(([name, header]) => [name.toLowerCase(), { name, header }]),
  )
  for (const [name, value] of headers) {
    const found = documented.get(name)
    if (found) {
      const validate = compiled(`${pointer}/headers/${encoded(found.name)}/schema`)
      if (!validate(value)) wrong.push(`header ${name}: ${value}: ${ajv.errorsText(validate.errors)}`)
    } else if (!COMMON.has(name)) wrong.push(`no header ${name}`)
  }
  for (const [name, { header }] of documented) if (header.required && !headers.has(name)) wrong.push(`missing ${name}`)
  return wrong
}

function bodyWrong(response: Response, pointer: string, method: string, { headers, text }: Seen): string[] {
  const type = (headers.get('Content-Type') ?? '').split(';')[0] ?? ''
  if (!response.content) return text === '' ? [] : ['a body where there is none']
  const key = type in response.content ? type : '*/*'
  if (!(key in response.content)) return [`no content type ${type}`]
  if (method === 'HEAD') return text === '' ? [] : ['a body in answer to HEAD']
  const validate = compiled(`${pointer}/content/${encoded(key)}/schema`)
  return validate(/json$/.test(type) ? JSON.parse(text) : text) ? [] : [ajv.errorsText(validate.errors)]
}

function astray(method: string, { status, headers, text }: Seen): string[] {
  if (headers.get('X-Request-ID') === null) return ['missing x-request-id']
  if (method === 'OPTIONS' && status < 300) return headers.has('Allow') ? [] : ['missing allow']
  if (status < 400) return [`no such operation, and status ${status}`]
  if (headers.get('Content-Type') !== 'application/problem+json') return ['no problem']
  if (method === 'HEAD') return []
  const body = JSON.parse(text) as { type: string }
  const type = ASTRAY.find((known) => body.type === `/problems/${known}`)
  if (!type) return [`a problem of type ${body.type} where there is no such operation`]
  if ((type === 'method-not-allowed') !== headers.has('Allow')) return ['Allow goes with method-not-allowed']
  const validate = compiled(`/components/schemas/Problem-${type}`)
  return validate(body) ? [] : [ajv.errorsText(validate.errors)]
}

const known = new Map<string, ValidateFunction>()

/** The validator of the schema at this place of the document. */
export function compiled(pointer: string): ValidateFunction {
  const found = known.get(pointer) ?? ajv.compile({ $ref: `document#${pointer}` })
  known.set(pointer, found)
  return found
}
