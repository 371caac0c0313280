/*
 * A Redis of a test's own, to be killed, started again with what it had stored, and frozen.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { until } from './harness.ts'

export type OwnRedis = {
  url: string
  start(): Promise<void>
  /** As a power cut would: nothing is said to anyone, nothing more is written. */
  kill(): Promise<void>
  /** Keeps its connections, and answers nothing. */
  freeze(): void
  thaw(): void
  /** For good. */
  remove(): Promise<void>
}

/** Stores what it accepts, as docker-compose.yml has it. */
const DURABLE = ['--appendonly', 'yes', '--appendfsync', 'always', '--maxmemory-policy', 'noeviction', '--save', '']

/** @returns undefined where there is no Redis on this machine. */
export async function startOwnRedis(): Promise<OwnRedis | undefined> {
  const folder = await mkdtemp(join(tmpdir(), 'transfer-test-redis-'))
  const port = await freePort()
  const url = `redis://127.0.0.1:${port}`
  const options = ['--bind', '127.0.0.1', '--port', String(port), '--dir', folder, ...DURABLE]
  let server: ChildProcess | undefined

  async function start(): Promise<void> {
    for (const binary of ['redis-server', 'valkey-server']) {
      const child = spawn(binary, options, { stdio: 'ignore' })
      const found = await once(child, 'spawn').then(
        () => true,
        () => false,
      )
      if (!found) continue
      server = child
      await until(() => answers(url))
      return
    }
  }

  async function kill(): Promise<void> {
    if (server === undefined || server.exitCode !== null || server.signalCode !== null) return
    const gone = once(server, 'exit')
    server.kill('SIGKILL')
    await gone
  }

  // A test process that ends early takes it along.
  process.once('exit', () => server?.kill('SIGKILL'))
  await start()
  const remove = async () => {
    await kill()
    await rm(folder, { recursive: true, force: true })
  }
  if (server === undefined) {
    await remove()
    return undefined
  }
  return {
    url,
    start,
    kill,
    freeze: () => void server?.kill('SIGSTOP'),
    thaw: () => void server?.kill('SIGCONT'),
    remove,
  }
}

async function answers(url: string): Promise<boolean> {
  const redis = new Redis(url, { lazyConnect: true, maxRetriesPerRequest: 0, retryStrategy: () => null })
  redis.on('error', () => {})
  const answer = await redis.ping().catch(() => undefined)
  redis.disconnect()
  return answer === 'PONG'
}

async function freePort(): Promise<number> {
  const probe = createServer()
  probe.listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const address = probe.address()
  probe.close()
  await once(probe, 'close')
  if (address === null || typeof address === 'string') throw new Error('no port')
  return address.port
}
