/*
 * Settings
 *
 * Every environment variable the service reads, once: its meaning, unit, default and bounds. Read at start, passed
 * on as a plain object; nothing else looks at process.env. A wrong value stops the start with a sentence that names
 * the variable, what was found and what is allowed.
 *
 * Next: transfer.ts, the vocabulary.
 */
import { z } from 'zod'

const whole = (min: number, max: number) =>
  z
    .string()
    .regex(/^\d+$/, 'a whole number')
    .transform(Number)
    .pipe(z.number().min(min, `at least ${min}`).max(max, `at most ${max}`))

const count = (fallback: number, min: number, max: number) => whole(min, max).default(fallback)

const url = (...schemes: string[]) =>
  z
    .string()
    .refine((text) => URL.canParse(text) && schemes.includes(new URL(text).protocol.slice(0, -1)), {
      message: `a URL starting with ${schemes.map((scheme) => `${scheme}://`).join(' or ')}`,
    })
    .optional()

/** The specification's names. */
const SAMPLERS = ['always_on', 'always_off', 'traceidratio'].flatMap((name) => [name, `parentbased_${name}`])

const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const

const schema = z.object({
  DATABASE_URL: url('postgres', 'postgresql').describe('Postgres 15 to 18; without it, an embedded one runs here'),
  REDIS_URL: url('redis', 'rediss').describe(
    'Redis 6.2 or later, or Valkey, for the queue; without it, the queue is in the same Postgres',
  ),
  HOST: z.string().min(1).default('127.0.0.1').describe('address the API listens on'),
  PORT: count(3000, 0, 65_535).describe('port the API listens on; 0 takes any free one'),
  DATA_DIR: z.string().min(1).default('.data').describe('where the embedded Postgres keeps its data'),
  QUEUE_NAME: z
    .string()
    .regex(/^[\w-]{1,50}$/, 'letters, digits, _ and -, at most 50')
    .default('transfer')
    .describe('deployments that share a Redis or a Postgres need different ones'),
  LOG_LEVEL: z
    .enum(LOG_LEVELS, { error: `one of ${LOG_LEVELS.join(', ')}` })
    .default('info')
    .describe(LOG_LEVELS.join(', ')),
  DATABASE_POOL: count(5, 2, 100).describe('connections to Postgres per API process'),
  BATCH_SIZE: count(500, 1, 1000).describe(
    'transfers decided by one call of the database at most; also the most one job holds',
  ),
  POSTING_CONCURRENCY: count(2, 1, 16).describe('calls of the database that one worker has under way at once'),
  WORKER_JOBS: count(32, 1, 1000).describe('jobs that one worker has in hand at once'),
  SUBMISSION_LIMIT: count(20_000, 1, 1_000_000).describe('submissions one API keeps in memory before it answers 503'),
  QUEUE_LIMIT: count(500_000, 1, 100_000_000).describe('transfers in the queue, about, before the API answers 503'),
  CONNECTION_LIMIT: count(10_000, 1, 1_000_000).describe('connections one API keeps open; any more are closed at once'),
  WORKER_HOST: z.string().min(1).default('127.0.0.1').describe('address a worker serves /metrics and /health on'),
  WORKER_PORT: whole(0, 65_535).optional().describe('port for that; without it, a worker listens nowhere'),
  WORKER_METRICS: z
    .string()
    .transform((text) => text.split(',').map((part) => part.trim()))
    .pipe(z.array(z.url({ protocol: /^https?$/, error: 'URLs starting with http://, with commas between them' })))
    .optional()
    .describe("URLs of workers' metrics, with commas between them, that the API shows with its own"),
  OTEL_EXPORTER_OTLP_ENDPOINT: url('http', 'https').describe('where traces are sent; without it, there are none'),
  OTEL_SERVICE_NAME: z.string().min(1).default('transfer').describe('the service that traces name'),
  OTEL_TRACES_SAMPLER: z
    .enum(SAMPLERS, { error: `one of ${SAMPLERS.join(', ')}` })
    .default('parentbased_always_on')
    .describe(SAMPLERS.join(', ')),
  OTEL_TRACES_SAMPLER_ARG: z
    .string()
    .regex(/^(?:0(?:\.\d+)?|1(?:\.0+)?)$/, 'a number from 0 to 1')
    .transform(Number)
    .default(1)
    .describe('the share of traces that traceidratio keeps'),
  AUTH_TOKENS_FILE: z
    .string()
    .min(1)
    .optional()
    .describe('JSON file of who may call (npm run token); SIGHUP rereads it'),
  AUTH_JWKS_URL: url('https', 'http').describe('where the keys are that JWTs are signed with'),
  AUTH_JWKS_FILE: z.string().min(1).optional().describe('the same keys in a file; SIGHUP rereads it'),
  AUTH_ISSUER: z.string().min(1).optional().describe('issuer (iss) that a JWT must have'),
  AUTH_AUDIENCE: z.string().min(1).optional().describe('audience (aud) that a JWT must have'),
  REQUEST_LIMIT: count(1000, 1, 1_000_000).describe('requests per second of one caller to one API process'),
  ATTEMPT_LIMIT: count(20, 1, 1_000_000).describe('failed attempts per minute from one client address'),
  TRUST_PROXY: count(0, 0, 10).describe('proxies in front whose X-Forwarded-For is believed'),
})

export type Settings = z.infer<typeof schema>

/** @throws Error with one line per wrong variable. */
export function readSettings(env: NodeJS.ProcessEnv = process.env): Settings {
  // An empty variable means "not set": compose files and shells produce them for every ${VAR:-}.
  const given = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== ''))
  const parsed = schema.safeParse(given)
  if (parsed.success) return parsed.data
  const lines = parsed.error.issues.map((issue) => {
    const name = String(issue.path[0])
    // A URL may hold a password.
    const value = name.endsWith('_URL') ? given[name]?.replace(/\/\/.*@/, '//…@') : given[name]
    return `  ${name}=${JSON.stringify(value)}: must be ${issue.message}`
  })
  throw new Error(`wrong settings:\n${lines.join('\n')}`)
}

/** For --help: each variable's name, default and meaning. */
export function describeSettings(): { name: string; fallback: string; meaning: string }[] {
  const defaults = schema.parse({})
  return Object.entries(schema.shape).map(([name, { description }]) => ({
    name,
    fallback: String(defaults[name as keyof Settings] ?? 'none'),
    meaning: description ?? '',
  }))
}
