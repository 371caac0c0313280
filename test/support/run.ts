/*
 * npm test
 *
 * Starts one Postgres and, if there is one on this machine, one Redis for all tests, runs ava with what is given on the
 * command line (`npm test -- test/deadlock.ts`), and removes everything again, also when interrupted.
 *
 * Next: harness.ts, what a test file works with.
 */
import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { startPostgres, startRedis } from './server.ts'

const AVA = fileURLToPath(new URL('../../node_modules/ava/entrypoints/cli.js', import.meta.url))
const INTERRUPTED = 130

const stopping = new AbortController()
let interrupt = () => {}
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    stopping.abort()
    interrupt()
  })
}

/** @returns ava's exit code. */
async function main(): Promise<number> {
  const postgres = await startPostgres(stopping.signal)
  try {
    const redis = await startRedis()
    if (!redis) {
      console.log(
        'No TEST_REDIS_URL, and no redis-server or valkey-server on this machine: its half of the tests is skipped.',
      )
    }
    try {
      if (stopping.signal.aborted) return INTERRUPTED
      return await runAva({
        TEST_DATABASE_URL: postgres.url,
        TEST_TEMPLATE: postgres.template,
        TEST_REDIS_URL: redis?.url,
      })
    } finally {
      await redis?.stop()
    }
  } finally {
    await postgres.stop()
  }
}

function runAva(env: NodeJS.ProcessEnv): Promise<number> {
  const child = spawn(process.execPath, [AVA, ...process.argv.slice(2)], {
    env: { ...process.env, ...env },
    stdio: 'inherit',
  })
  interrupt = () => void child.kill('SIGINT')
  return new Promise((done, failed) => {
    child.once('error', failed)
    child.once('exit', (code) => done(code ?? INTERRUPTED))
  })
}

try {
  process.exitCode = await main()
} catch (error) {
  process.exitCode = stopping.signal.aborted ? INTERRUPTED : 1
  if (!stopping.signal.aborted) console.error(error)
}
