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

const count = (fallback: number, min: number, max: number) =>
  z
    .string()
    .regex(/^\d+$/, 'a whole number')
    .transform(Number)
    .pipe(z.number().min(min, `at least ${min}`).max(max, `at most ${max}`))
    .default(fallback)

const url = (...schemes: string[]) =>
  z
    .string()
    .refine((text) => URL.canParse(text) && schemes.includes(new URL(text).protocol.slice(0, -1)), {
      message: `a URL starting with ${schemes.map((scheme) => `${scheme}://`).join(' or ')}`,
    })
    .optional()

const schema = z.object({
  /** Postgres 15 to 18. Absent: `npm start` runs an embedded Postgres of its own. */
  DATABASE_URL: url('postgres', 'postgresql'),
  /** Redis 6.2 or later, or Valkey. Absent: the queue lives in the same Postgres as the ledger. */
  REDIS_URL: url('redis', 'rediss'),
  HOST: z.string().min(1).default('127.0.0.1'),
  PORT: count(3000, 0, 65_535),
  /** Where the embedded Postgres keeps its data. */
  DATA_DIR: z.string().min(1).default('.data'),
  /** Name of the queue: deployments that share a Redis or a Postgres need different ones. */
  QUEUE_NAME: z
    .string()
    .regex(/^[\w-]{1,50}$/, 'letters, digits, _ and -, at most 50')
    .default('transfer'),
  LOG_LEVEL: z.enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']).default('info'),
  /** Connections to Postgres per process. */
  DATABASE_POOL: count(5, 2, 100),
  /** Transfers decided by one call of the database at most; also the most one job holds. */
  BATCH_SIZE: count(500, 1, 1000),
  /** Calls of the database that one worker has under way at once. */
  POSTING_CONCURRENCY: count(2, 1, 16),
  /** Jobs that one worker has in hand at once. */
  WORKER_JOBS: count(32, 1, 1000),
  /** Submissions one API process keeps in memory before it answers 503. */
  SUBMISSION_LIMIT: count(20_000, 1, 1_000_000),
  /** Jobs in the queue before the API answers 503. */
  QUEUE_LIMIT: count(20_000, 1, 10_000_000),
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
    return `  ${name}=${JSON.stringify(given[name])}: must be ${issue.message}`
  })
  throw new Error(`wrong settings:\n${lines.join('\n')}`)
}
