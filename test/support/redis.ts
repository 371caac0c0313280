/*
 * A Redis of a test's own, to be killed, started again with what it had stored, and frozen.
 */
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readdir, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { Redis } from 'ioredis'
import { freePort } from '../../src/db/embedded.ts'
import { until } from './harness.ts'

export type OwnRedis = {
  url: string
  /** Unless it runs. */
  start(): Promise<void>
  /** As a power cut would: nothing is said to anyone, nothing more is written. */
  kill(): Promise<void>
  /** Keeps its connections, and answers nothing. */
  freeze(): void
  thaw(): void
  /**
   * As a full disk does: the next write of the log fails half way, and this Redis, which may not answer before it has
   * written, ends. Fulfilled when it has. Absent where there is no prlimit to do it with. @throws Error if nobody writes.
   */
  fill?(): Promise<void>
  /** For good. */
  remove(): Promise<void>
}

/** Stores what it accepts, as docker-compose.yml has it. */
const DURABLE = ['--appendonly', 'yes', '--appendfsync', 'always', '--maxmemory-policy', 'noeviction', '--save', '']

/**
 * Runs what it is given, says its pid, and ends it when its own input ends: with the test process, however that ends. A
 * file that may not grow is an error to it, not its end.
 */
const GUARD = 'trap "" XFSZ; "$@" >/dev/null & echo $!; read end; kill -9 $!; wait'

/**
 * @param flags more arguments for Redis; they win over those that make it safe.
 * @returns undefined where there is no Redis on this machine.
 */
export async function startOwnRedis(flags: string[] = []): Promise<OwnRedis | undefined> {
  const binary = await findBinary()
  if (!binary) return undefined
  const folder = await mkdtemp(join(tmpdir(), 'transfer-test-redis-'))
  const port = await freePort()
  const url = `redis://127.0.0.1:${port}`
  const command = [binary, '--bind', '127.0.0.1', '--port', String(port), '--dir', folder, ...DURABLE, ...flags]
  let running: { pid: number; end(): Promise<unknown> } | undefined

  async function start(): Promise<void> {
    if (running) return
    const guard = spawn('sh', ['-c', GUARD, 'sh', ...command], { stdio: ['pipe', 'pipe', 'ignore'] })
    const ended = once(guard, 'exit')
    const [said] = await once(guard.stdout, 'data')
    running = {
      pid: Number(said),
      end: () => {
        guard.stdin.end()
        return ended
      },
    }
    await until(() => answers(url))
  }

  async function kill(): Promise<void> {
    await running?.end()
    running = undefined
  }

  async function fill(): Promise<void> {
    if (!running) throw new Error('a Redis that does not run writes nothing')
    const log = join(folder, 'appendonlydir')
    const sizes = await Promise.all((await readdir(log)).map(async (name) => (await stat(join(log, name))).size))
    // Not a limit that is reached already: the interesting write is the one of which a part is stored.
    const limit = Math.max(...sizes) + 1500
    await promisify(execFile)('prlimit', ['--pid', String(running.pid), `--fsize=${limit}`])
    await until(async () => !(await answers(url)), { interval_ms: 50 })
    await kill()
  }

  await start()
  const limits = await promisify(execFile)('prlimit', ['--version']).then(
    () => true,
    () => false,
  )
  return {
    url,
    ...(limits && { fill }),
    start,
    kill,
    freeze: () => void (running && process.kill(running.pid, 'SIGSTOP')),
    thaw: () => void (running && process.kill(running.pid, 'SIGCONT')),
    remove: async () => {
      await kill()
      await rm(folder, { recursive: true, force: true })
    },
  }
}

async function findBinary(): Promise<string | undefined> {
  const search = 'command -v redis-server || command -v valkey-server'
  const { stdout } = await promisify(execFile)('sh', ['-c', search]).catch(() => ({ stdout: '' }))
  return stdout.trim() || undefined
}

async function answers(url: string): Promise<boolean> {
  const redis = new Redis(url, { lazyConnect: true, maxRetriesPerRequest: 0, retryStrategy: () => null })
  redis.on('error', () => {})
  const answer = await redis.ping().catch(() => undefined)
  redis.disconnect()
  return answer === 'PONG'
}
