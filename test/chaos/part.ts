/*
 * Parts
 *
 * The service as separate processes, each to be killed, stopped and started again: two APIs, two workers (each behind a
 * proxy of its own on the way to Postgres), a Redis and a Postgres with durable settings. Or, embedded, all of it as the
 * one tree of processes that `npm start` makes.
 *
 * Next: fault.ts, what is done to them.
 */
import { execFile, spawn } from 'node:child_process'
import { mkdtemp, realpath, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { embeddedUrl } from '../../src/db/audit.ts'
import { type Embedded, freePort, startEmbedded } from '../../src/db/embedded.ts'
import { migrate } from '../../src/db/migrate.ts'
import { until } from '../support/harness.ts'
import { type Part as Process, spawnPart } from '../support/part.ts'
import { type StoreProxy, startProxy } from '../support/proxy.ts'
import { startOwnRedis } from '../support/redis.ts'

export type Kind = 'api' | 'worker' | 'redis' | 'postgres' | 'tree'

export type Part = {
  kind: Kind
  name: string
  /** Until it is ready, however often it takes, as under a supervisor. */
  start(): Promise<void>
  /** `kill -9`, or Postgres' own immediate shutdown. */
  kill(signal: 'SIGKILL' | 'SIGQUIT'): Promise<void>
  /** To every process of it. */
  send(signal: 'SIGSTOP' | 'SIGCONT'): Promise<void>
  /** An API's, to tell whose answer it was. */
  url?: string
  /** A worker's way to Postgres. */
  proxy?: StoreProxy
  /** Redis': see support/redis.ts. */
  fill?(): Promise<void>
}

export type Stage = {
  parts: Part[]
  apis: string[]
  databaseUrl(): Promise<string>
  postgresLog: string
  stop(): Promise<void>
}

/** Wrong on purpose, for the control. */
export type Sabotage = 'forgetful Redis' | 'hasty worker'

/** @param onAnswer hears of each posting that Postgres has answered, and through which worker. */
export async function openStage(onAnswer: (worker: string) => void, sabotage?: Sabotage): Promise<Stage> {
  const folder = await mkdtemp(join(tmpdir(), 'transfer-chaos-'))
  const undo: (() => Promise<unknown>)[] = [() => rm(folder, { recursive: true, force: true })]
  const stop = async () => {
    for (const step of undo.splice(0).reverse()) await step()
  }
  try {
    const redis = await startOwnRedis(sabotage === 'forgetful Redis' ? ['--appendonly', 'no'] : [])
    if (!redis) throw new Error('there is no redis-server or valkey-server on this machine: see --embedded')
    undo.push(redis.remove)
    const postgres = await startPostgres(folder)
    undo.push(postgres.remove)
    await migrate(postgres.url, { queue: false })

    const shared = { REDIS_URL: redis.url, QUEUE_NAME: 'chaos', LOG_LEVEL: 'fatal' }
    const apis: Part[] = []
    const workers: Part[] = []
    for (const number of [1, 2]) {
      const name = `worker ${number}`
      const proxy = await startProxy(postgres.url, { marked: 'post_transfers', onAnswer: () => onAnswer(name) })
      undo.push(proxy.close)
      const source = sabotage === 'hasty worker' ? new URL('hasty.ts', import.meta.url) : undefined
      const worker = keepPart('worker', { ...shared, DATABASE_URL: proxy.url }, source)
      undo.push(worker.remove)
      await worker.start()
      workers.push({ kind: 'worker', name, proxy, ...worker })

      const port = String(await freePort())
      const api = keepPart('api', { ...shared, DATABASE_URL: postgres.url, PORT: port })
      undo.push(api.remove)
      await api.start()
      apis.push({ kind: 'api', name: `api ${number}`, url: `http://127.0.0.1:${port}`, ...api })
    }
    const parts: Part[] = [
      ...apis,
      ...workers,
      {
        kind: 'redis',
        name: 'redis',
        start: redis.start,
        kill: redis.kill,
        send: async (signal) => (signal === 'SIGSTOP' ? redis.freeze() : redis.thaw()),
        ...(redis.fill && { fill: redis.fill }),
      },
      { kind: 'postgres', name: 'postgres', ...postgres },
    ]
    const { url, log } = postgres
    return {
      parts,
      apis: apis.map((api) => api.url ?? ''),
      databaseUrl: async () => url,
      postgresLog: log,
      stop,
    }
  } catch (error) {
    await stop()
    throw error
  }
}

/** The service that `npm start` runs, which is killed as a whole. */
export async function openTree(): Promise<Stage> {
  const dataDir = await mkdtemp(join(tmpdir(), 'transfer-chaos-'))
  const port = await freePort()
  const url = `http://127.0.0.1:${port}`
  const file = fileURLToPath(new URL('../../src/start.ts', import.meta.url))
  const environment = { PATH: process.env.PATH, DATA_DIR: dataDir, PORT: String(port), LOG_LEVEL: 'fatal' }
  let pid = 0

  async function start(): Promise<void> {
    const launcher = spawn(process.execPath, [file], { env: environment, stdio: ['ignore', 'pipe', 'inherit'] })
    pid = launcher.pid ?? 0
    launcher.stdout.resume()
    await until(async () => launcher.exitCode !== null || (await isReady(url)), { interval_ms: 50 })
    if (launcher.exitCode !== null) throw new Error(`npm start ended with ${launcher.exitCode}`)
  }

  /** All at the same moment, as far as that goes: stopped first, so that none sees another end and acts on it. */
  async function kill(): Promise<void> {
    const tree = await family(pid)
    for (const signal of ['SIGSTOP', 'SIGKILL'] as const) for (const member of tree) send(member, signal)
    await until(async () => !(await isReady(url)))
  }

  const stop = async () => {
    await kill()
    const home = await realpath(join(dataDir, 'postgres')).catch(() => dataDir)
    await until(() =>
      rm(home, { recursive: true, force: true }).then(
        () => true,
        () => false,
      ),
    )
    await rm(dataDir, { recursive: true, force: true })
  }
  const sendAll = async (signal: NodeJS.Signals) => {
    for (const member of await family(pid)) send(member, signal)
  }
  try {
    await start()
    const part: Part = { kind: 'tree', name: 'npm start', start, kill, send: sendAll, url }
    return {
      parts: [part],
      apis: [url],
      databaseUrl: () => embeddedUrl(dataDir),
      postgresLog: join(dataDir, 'postgres', 'postgres.log'),
      stop,
    }
  } catch (error) {
    await stop()
    throw error
  }
}

const isReady = (url: string): Promise<boolean> =>
  fetch(`${url}/health/ready`, { signal: AbortSignal.timeout(2000) }).then(
    ({ status }) => status === 200,
    () => false,
  )

/** A process and all its descendants. */
async function family(root: number): Promise<number[]> {
  const { stdout } = await promisify(execFile)('ps', ['-A', '-o', 'pid=,ppid='])
  const pairs = stdout.split('\n').map((line) => line.trim().split(/\s+/).map(Number))
  const members = [root]
  // Grows while it is walked.
  for (const member of members) for (const [pid = 0, parent] of pairs) if (parent === member) members.push(pid)
  return members
}

function send(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch {} // it has ended by itself
}

type Kept = Pick<Part, 'start' | 'kill' | 'send'> & { remove(): Promise<void> }

/** An API or a worker. One that ends before it is ready, as without a database, is started again. */
function keepPart(name: 'api' | 'worker', environment: Record<string, string>, source?: URL): Kept {
  let running: Process | undefined
  const kill = async () => {
    running?.process.kill('SIGKILL')
    await running?.exited
    running = undefined
  }
  return {
    start: async () => {
      for (;;) {
        running = spawnPart(name, environment, source)
        const ready = await running.ready.then(
          () => true,
          () => false,
        )
        if (ready) return
        await sleep(300)
      }
    },
    kill,
    send: async (signal) => void running?.process.kill(signal),
    remove: kill,
  }
}

async function startPostgres(folder: string): Promise<Kept & { url: string; log: string }> {
  const port = await freePort()
  const options = { dataDir: join(folder, 'ledger'), port, log: () => {} }
  let running: Embedded | undefined = await startEmbedded(options)
  const { url, logFile } = running
  const kill = async (signal: 'SIGKILL' | 'SIGQUIT') => {
    if (!running) return
    if (signal === 'SIGQUIT') running.kill()
    else send(running.pid, 'SIGKILL')
    await running.exited
    running = undefined
  }
  return {
    url,
    log: logFile,
    start: async () => {
      running = await startEmbedded(options)
    },
    kill,
    send: async (signal) => {
      for (const member of await family(running?.pid ?? 0)) send(member, signal)
    },
    remove: async () => {
      await kill('SIGQUIT')
      const home = await realpath(join(options.dataDir, 'postgres')).catch(() => folder)
      await rm(home, { recursive: true, force: true })
    },
  }
}
