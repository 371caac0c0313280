/*
 * npm start
 *
 * The whole service with one command: a Postgres of its own unless DATABASE_URL names one, the migrations, a worker and
 * an API, each in a process of its own, kept running by this one. Ctrl-C or SIGTERM stops them in the order that loses
 * no work: the API first (it answers whom it has accepted), then the worker, then Postgres. Nothing depends on that
 * order for correctness: kill -9 of everything at any moment costs time at the next start, never a transfer.
 *
 * Next: keeper.ts, how a part is kept running; db/embedded.ts, the Postgres.
 */
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { type Embedded, startEmbedded } from './db/embedded.ts'
import { migrate } from './db/migrate.ts'
import { CLEAN, type Kept, keep, type Running, startChild } from './keeper.ts'
import { describeSettings, readSettings, type Settings } from './settings.ts'

/** npm passes on a Ctrl-C that the terminal has already delivered: two within this time are one. */
const SAME_CTRL_C_MS = 500

const log = (line: string): void => console.log(line)

/** What is running, in the order of starting. */
type Parts = [name: string, part: Kept<Running>][]

async function main(): Promise<void> {
  if (process.argv.slice(2).some((word) => word === '--help' || word === '-h')) return log(help())
  const settings = readSettings()
  const stopping = new AbortController()
  const parts: Parts = []
  listenForSignals(stopping, parts)
  try {
    log(await startAll(settings, parts, stopping.signal))
    if (!stopping.signal.aborted) await once(stopping.signal, 'abort')
  } catch (error) {
    if (!stopping.signal.aborted) {
      process.exitCode = 1
      console.error(describe(error))
      stopping.abort()
    }
  }
  await stopAll(parts)
  // Whatever may still hold the event loop has nothing left to do.
  process.exit()
}

/** @returns what to tell the operator. */
async function startAll(settings: Settings, parts: Parts, signal: AbortSignal): Promise<string> {
  const { DATABASE_URL, REDIS_URL, DATA_DIR } = settings
  const embedded = DATABASE_URL ? undefined : await keepPostgres(DATA_DIR, parts, signal)
  const databaseUrl = DATABASE_URL ?? embedded?.url ?? ''
  const applied = await migrate(databaseUrl, { queue: !REDIS_URL }).catch((error: unknown) => {
    throw new Error(`cannot migrate the database at ${whereIs(databaseUrl)}: ${describe(error)}`, { cause: error })
  })
  if (applied.length > 0) log(`migrated: ${applied.join(', ')}`)
  const worker = await keepWorker(databaseUrl, settings, parts, signal)
  // So that one look at the API shows all of this machine.
  const workers = [...(settings.WORKER_METRICS ?? []), ...(worker ? [`${worker}/metrics`] : [])]
  const url = await keepChild(
    'api',
    () => ({ DATABASE_URL: databaseUrl, WORKER_METRICS: workers.join() }),
    parts,
    signal,
  )
  return welcome({ url: url ?? `http://${settings.HOST}:${settings.PORT}`, databaseUrl, embedded, redisUrl: REDIS_URL })
}

async function keepPostgres(dataDir: string, parts: Parts, signal: AbortSignal): Promise<Embedded> {
  let port: number | undefined
  const start = async () => {
    // The same port again: API and worker know it, and find Postgres there when it is back.
    const embedded = await startEmbedded({ dataDir, log, signal, ...(port && { port }) })
    port = Number(new URL(embedded.url).port)
    return embedded
  }
  const kept = await keep({ name: 'Postgres', start, attempts: 1, log, signal })
  parts.push(['Postgres', kept])
  return kept.first
}

/** @returns where it serves its metrics: at any free port unless told, and at the same one each time it is started. */
async function keepWorker(databaseUrl: string, { WORKER_PORT = 0 }: Settings, parts: Parts, signal: AbortSignal) {
  let port = WORKER_PORT
  const url = await keepChild('worker', () => ({ DATABASE_URL: databaseUrl, WORKER_PORT: String(port) }), parts, signal)
  if (url) port = Number(new URL(url).port)
  return url
}

/** @param env what it is to know besides what this process was told, at each start. */
async function keepChild(name: 'api' | 'worker', env: () => NodeJS.ProcessEnv, parts: Parts, signal: AbortSignal) {
  const file = fileURLToPath(new URL(`${name}/main.ts`, import.meta.url))
  const start = () => startChild(name, file, { ...process.env, ...env() }, { log, signal })
  const kept = await keep({ name, start, attempts: 3, log, signal }).catch((error: unknown) => {
    throw new Error(`the ${name} does not start (${describe(error)}); it says why above`, { cause: error })
  })
  parts.push([name, kept])
  return kept.first.url
}

async function stopAll(parts: Parts): Promise<void> {
  for (const [name, part] of parts.toReversed()) {
    const reason = await part.stop()
    if (reason === undefined || reason === CLEAN) continue
    log(`${name} did not stop cleanly (${reason}); what it had in hand is done again after the next start`)
    process.exitCode = 1
  }
  if (parts.length > 0) log('stopped')
}

/** The first signal stops in order, the second at once. A closed terminal (SIGHUP) counts as a signal to stop. */
function listenForSignals(stopping: AbortController, parts: Parts): void {
  let first_ms: number | undefined
  const onSignal = (signal: NodeJS.Signals) => {
    if (first_ms === undefined) {
      first_ms = performance.now()
      log(`\n${signal}: finishing what is in hand, then stopping; once more stops at once`)
      stopping.abort()
    } else if (performance.now() - first_ms > SAME_CTRL_C_MS) {
      log('stopping at once')
      for (const [, part] of parts.toReversed()) part.kill()
      process.exit(1)
    }
  }
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, onSignal)
  // A terminal that is gone must not take the order of stopping with it. slonik's logger has put a listener there that
  // throws.
  for (const stream of [process.stdout, process.stderr]) stream.removeAllListeners('error').on('error', () => undefined)
}

type Situation = { url: string; databaseUrl: string; embedded: Embedded | undefined; redisUrl: string | undefined }

function welcome({ url, databaseUrl, embedded, redisUrl }: Situation): string {
  const [source, destination] = [randomUUID(), randomUUID()]
  const post = (path: string, body: object, ...headers: string[]) =>
    `  curl -s ${url}${path} ${['Content-Type: application/json', ...headers].map((header) => `-H '${header}'`).join(' ')} ` +
    `-d '${JSON.stringify(body)}'`
  return [
    `\nTransfer is running at ${url}\n`,
    `  ledger  ${embedded ? 'embedded ' : ''}Postgres at ${whereIs(databaseUrl)}`,
    ...(embedded ? [`  data    ${embedded.where}`, `  log     ${embedded.logFile}`] : []),
    `  queue   ${redisUrl ? `Redis at ${whereIs(redisUrl)}` : 'in the same Postgres (REDIS_URL makes it a Redis)'}`,
    '  stop    Ctrl-C; the data stays\n',
    'Open an account with 100.00 in it, another one, and move 30.00:\n',
    post('/accounts', { id: source, balance: '100.00' }, 'Prefer: wait=5'),
    post('/accounts', { id: destination }),
    post('/transfers', { source, destination, amount: '30.00' }, 'Prefer: wait=5'),
    `  curl -s ${url}/accounts/${source}/balance\n`,
  ].join('\n')
}

/** A store's address without the password in it. */
function whereIs(address: string): string {
  const { host, pathname } = new URL(address)
  return `${host}${pathname}`
}

function help(): string {
  const row = (name: string, fallback: string, meaning: string) =>
    `  ${name.padEnd(28)}${fallback.padEnd(22)}${meaning}`
  const rows = describeSettings().map(({ name, fallback, meaning }) => row(name, fallback, meaning))
  return [
    'npm start runs everything: Postgres (embedded), API and worker. Settings are environment variables:\n',
    row('name', 'default', 'meaning'),
    ...rows,
  ].join('\n')
}

/** A refused connection is an error of several addresses, without a message of its own. */
function describe(error: unknown): string {
  if (error instanceof AggregateError && !error.message) return error.errors.map(describe).join('; ')
  return error instanceof Error ? error.message : String(error)
}

await main().catch((error: unknown) => {
  console.error(describe(error))
  process.exitCode = 1
})
