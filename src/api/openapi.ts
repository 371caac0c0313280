/*
 * The OpenAPI document
 *
 * Made once, of the table in route.ts. What all routes have in common is added here: problems that follow from having
 * a body or needing a scope, and the headers of every answer.
 *
 * Next: docs.ts, which serves it.
 */
import { z } from 'zod'
import { createDocument, type ZodOpenApiOperationObject, type ZodOpenApiResponsesObject } from 'zod-openapi'
import { PROBLEMS, type ProblemType } from './problem.ts'
import { type Route, routes } from './route.ts'
import { PROBLEM_BODIES, PROBLEM_TYPES } from './schema.ts'

const DESCRIPTION = `Money transfers on an insert-only ledger. Amounts are exact decimal strings. A transfer is accepted
into a queue (202), then posted or rejected, for good. Whatever carries an Idempotency-Key may be repeated.

Errors are RFC 9457 problems; each type is a URI that can be looked up. An unknown address is 404 \`not-found\`, a method
that a resource does not take 405 \`method-not-allowed\` with \`Allow\`. While no token is configured, none is needed.`

const ALWAYS = {
  'X-Request-ID': z.string().describe('as sent, or made; also in the log'),
  RateLimit: z.string().optional().describe('what is left of the quota, where there is one'),
  'RateLimit-Policy': z.string().optional(),
}

/** Headers that come with a problem of this status. */
const PROBLEM_HEADERS: Record<number, z.ZodRawShape> = {
  401: { 'WWW-Authenticate': z.string() },
  429: { 'Retry-After': z.string().regex(/^\d+$/).describe('seconds') },
  503: { 'Retry-After': z.string().regex(/^\d+$/).describe('seconds') },
}

/** What is found out before the route is: what came is no request, too much, or from whom it may not. */
const BEFORE = [
  'malformed-request',
  'invalid-request',
  'unauthenticated',
  'forbidden',
  'request-timeout',
  'too-many-requests',
  'header-too-large',
  'internal-error',
  'overloaded',
] as const

/** Of every route with a body. */
export const WITH_BODY = ['malformed-json', 'content-too-large', 'unsupported-media-type'] as const

/** Every type of problem that a route may answer. */
function problemsOf(route: Route): ProblemType[] {
  const types = new Set<ProblemType>([...(route.problems ?? []), ...(route.body ? WITH_BODY : []), ...BEFORE])
  return PROBLEM_TYPES.filter((type) => types.has(type))
}

function responsesOf(route: Route): ZodOpenApiResponsesObject {
  const responses: ZodOpenApiResponsesObject = {}
  for (const [status, { description, body, type = 'application/json', headers }] of Object.entries(route.answers)) {
    responses[status as '200'] = {
      description,
      headers: z.object({ ...ALWAYS, ...headers }),
      ...(body && { content: { [type]: { schema: body } } }),
    }
  }
  for (const [status, types] of Map.groupBy(problemsOf(route), (type) => PROBLEMS[type][0])) {
    const [first, ...rest] = types.map((type) => PROBLEM_BODIES[type])
    if (!first) continue
    responses[`${status}` as '400'] = {
      description: types.map((type) => PROBLEMS[type][1]).join(', or: '),
      headers: z.object({ ...ALWAYS, ...PROBLEM_HEADERS[status] }),
      content: { 'application/problem+json': { schema: rest.length === 0 ? first : z.union([first, ...rest]) } },
    }
  }
  return responses
}

function operationOf(name: string, route: Route): ZodOpenApiOperationObject {
  const { tag, summary, scope, params, query, headers, body } = route
  const requestId = z.string().optional().describe('up to 128 letters, digits and . : + / = - _; taken over')
  return {
    operationId: name.replace(/[^A-Za-z]+/g, '_').replace(/_$/, ''),
    tags: [tag],
    summary,
    ...(scope && { description: `Needs the scope \`${scope}\`.` }),
    security: scope ? [{ bearer: [scope] }, ...(scope === 'operate' ? [{ basic: [scope] }] : [])] : [],
    requestParams: {
      ...(params && { path: params }),
      ...(query && { query }),
      header: z.object({ ...headers?.shape, 'X-Request-ID': requestId }),
    },
    ...(body && { requestBody: { required: true, content: { 'application/json': { schema: body } } } }),
    responses: responsesOf(route),
  }
}

/** @param table for tests; the routes there are, unless told. */
export function makeDocument(table: Record<string, Route> = routes) {
  const paths: Record<string, Record<string, ZodOpenApiOperationObject>> = {}
  for (const [name, route] of Object.entries(table)) {
    const [method = '', path = ''] = name.split(' ')
    paths[path] = { ...paths[path], [method.toLowerCase()]: operationOf(name, route) }
  }
  return createDocument({
    openapi: '3.1.0',
    info: {
      title: 'Transfer',
      version: '0.1.0',
      description: DESCRIPTION,
      license: { name: 'MIT', identifier: 'MIT' },
    },
    servers: [{ url: '/' }],
    tags: ['Transfers', 'Accounts', 'Operation', 'Documentation'].map((name) => ({ name })),
    paths,
    components: {
      // Those too that no route has: no such address, no such method.
      schemas: Object.fromEntries(PROBLEM_TYPES.map((type) => [`Problem-${type}`, PROBLEM_BODIES[type]])),
      securitySchemes: {
        bearer: { type: 'http', scheme: 'bearer', description: 'A token or a JWT' },
        basic: { type: 'http', scheme: 'basic', description: "For the operators' pages in a browser" },
      },
    },
  })
}
