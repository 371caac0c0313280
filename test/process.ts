/*
 * A process that is set up wrongly says so, in a sentence, and leaves; and none brings along what it does not need.
 */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import test, { type ExecutionContext } from 'ava'
import { createDatabase, openAdmin, startService, until } from './support/harness.ts'
import { type Part, spawnPart } from './support/part.ts'

/** Leaves with code 1, and with a sentence for the operator instead of a stack. */
async function expectRefusal(t: ExecutionContext, part: Part, says: RegExp): Promise<void> {
  t.is(await part.exited, 1, part.said())
  t.regex(part.said(), says)
  t.notRegex(part.said(), /\n\s+at .*\(?file:/)
}

test.serial('wrong settings end a process with a sentence that names them', async (t) => {
  const DATABASE_URL = 'postgres://127.0.0.1:1/none'
  for (const [name, environment, says] of [
    ['api', {}, /DATABASE_URL is not set/],
    ['worker', { DATABASE_URL: '' }, /DATABASE_URL is not set/],
    ['api', { DATABASE_URL: 'mysql://127.0.0.1/x' }, /DATABASE_URL="mysql:.*must be a URL starting with postgres:/],
    [
      'worker',
      { DATABASE_URL, REDIS_URL: '127.0.0.1:1' },
      /REDIS_URL="127.0.0.1:1": must be a URL starting with redis:/,
    ],
    ['api', { DATABASE_URL, PORT: '65536' }, /PORT="65536": must be at most 65535/],
    ['worker', { DATABASE_URL, WORKER_JOBS: 'all' }, /WORKER_JOBS="all": must be a whole number/],
    [
      'api',
      { DATABASE_URL, BATCH_SIZE: '0', LOG_LEVEL: 'loud' },
      /LOG_LEVEL="loud": must be one of[\s\S]*BATCH_SIZE="0"/,
    ],
  ] as const) {
    await expectRefusal(t, spawnPart(name, environment), says)
  }
})

test.serial('a port that is taken ends an API with a sentence', async (t) => {
  const service = await startService({ backend: 'postgres', workers: 0 })
  t.teardown(service.stop)
  const { DATABASE_URL, QUEUE_NAME } = service.settings
  await expectRefusal(t, spawnPart('api', { DATABASE_URL, QUEUE_NAME, PORT: new URL(service.url).port }), /EADDRINUSE/)
})

test.serial('a database that is not migrated, or newer than the code, is refused by API and worker', async (t) => {
  const empty = await createDatabase({ empty: true })
  t.teardown(empty.drop)
  const newer = await createDatabase()
  t.teardown(newer.drop)
  const pool = openAdmin(newer.url)
  await pool.query("INSERT INTO ledger.migration (number, name) VALUES (9999, '9999_tomorrow.sql')")
  await pool.end()
  for (const [{ url }, says] of [
    [empty, /at version 0, this code needs \d+: npm run migrate/],
    [newer, /at version 9999, newer than this code/],
  ] as const) {
    for (const name of ['api', 'worker'] as const) {
      await expectRefusal(t, spawnPart(name, { DATABASE_URL: url }), says)
    }
  }
})

test.serial('a process that waits for its database stops when told to', async (t) => {
  for (const name of ['api', 'worker'] as const) {
    const part = spawnPart(name, { DATABASE_URL: 'postgres://127.0.0.1:1/none' })
    await until(() => part.said().includes('not reachable yet'))
    part.process.kill('SIGTERM')
    t.is(await part.exited, 0)
  }
})

test('no part brings an HTTP client along that it does not need', async (t) => {
  const loaded = async (statement: string) => {
    const program = `${statement}; console.log(process.moduleLoadList.join('\\n'))`
    const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '--eval', program])
    return stdout.split('\n').some((name) => name.endsWith('/undici'))
  }
  for (const part of ['api', 'worker']) t.false(await loaded(`await import('./src/${part}/main.ts')`), part)
  t.true(await loaded("await import('node:http')"), 'what it comes with')
})
