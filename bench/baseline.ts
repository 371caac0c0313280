/*
 * Baselines
 *
 * The same work, over the same HTTP framework, with the same validation, done in other ways, each by one process of its
 * own. What they answer: 201 when it is done, 422 when it is refused, 500 when it failed. `nothing` does nothing: it
 * shows what the framework and the validation cost by themselves.
 */
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Router } from '@koa/router'
import Koa from 'koa'
import pg from 'pg'
import { readBody } from '../src/api/body.ts'
import { parse } from '../src/api/problem.ts'
import { type Transfer, transferRequest } from '../src/transfer.ts'
import { lockedRows } from './baseline-locks.ts'
import { rowTriggers } from './baseline-triggers.ts'
import { startChild } from './child.ts'
import type { Target } from './run.ts'
import { createDatabase, onDatabase, type Stage } from './stage.ts'

export type Baseline = {
  schema: string
  /** Opens the accounts $1 with a million each. */
  open: string
  /** Does one transfer. A thrown error is a 500. */
  transfer: (client: pg.PoolClient, transfer: Transfer) => Promise<{ status: number; refusal?: string }>
  /** Statements that fill the ledger of 1,000 accounts with 10^6 transfers, for a design slower the more there are. */
  grow?: string[]
  /** Counts the transfers out of the accounts $1 as `decided`. */
  count: string
  /** Selects what is wrong with the books. */
  books: string
}

const BASELINES = { locked_rows: lockedRows, row_triggers: rowTriggers }

export type BaselineName = keyof typeof BASELINES

/** Of 10, 20, 40 and 64, the best for both. */
const CONNECTIONS = 40

export type RunningBaseline = Target & {
  grow: (() => Promise<void>) | undefined
  checkBooks: () => Promise<string[]>
  stop: () => Promise<void>
}

export async function startBaseline(stage: Stage, name: BaselineName): Promise<RunningBaseline> {
  const databaseUrl = await createDatabase(stage)
  const { schema, open, grow, count, books }: Baseline = BASELINES[name]
  await onDatabase(databaseUrl, (client) => client.query(schema))
  const child = await startChild('bench/baseline.ts', { BASELINE: name, DATABASE_URL: databaseUrl })
  return {
    url: child.url,
    databaseUrl,
    pids: { api: child.pid, ...(stage.postgresPid && { postgres: stage.postgresPid }) },
    open: async (client, count) => {
      const accounts = Array.from({ length: count }, () => randomUUID() as string)
      await client.query(open, [accounts])
      return accounts
    },
    countDecided: async (client, accounts) => {
      const { rows } = await client.query<{ decided: string }>(count, [accounts])
      return Number(rows[0]?.decided)
    },
    countRejected: async () => 0,
    canWait: false,
    grow:
      grow &&
      (() =>
        onDatabase(databaseUrl, async (client) => {
          for (const statement of grow) await client.query(statement)
        })),
    checkBooks: () =>
      onDatabase(databaseUrl, async (client) => {
        const { rows } = await client.query<{ id: string }>(books)
        return rows.length === 0 ? [] : [`${name}: the books of ${rows.length} accounts are wrong`]
      }),
    stop: child.stop,
  }
}

/** @returns the URL of a server that validates and does nothing. */
export async function startNothing(): Promise<{ url: string; pid: number; stop: () => Promise<void> }> {
  return await startChild('bench/baseline.ts', { BASELINE: 'nothing' })
}

async function serve(): Promise<void> {
  const name = process.env.BASELINE
  const work = name === 'nothing' ? async () => ({ status: 202 }) : doing(BASELINES[name as BaselineName])
  const router = new Router()
  router.post('/transfers', async (ctx) => {
    const transfer = { id: randomUUID(), ...parse(transferRequest, await readBody(ctx)) }
    const { status, ...rest } = await work(transfer).catch(() => ({ status: 500 }))
    ctx.status = status
    ctx.body = { ...transfer, ...rest }
  })
  const app = new Koa()
  app.use(router.routes())
  const server = createServer(app.callback()).listen(0, '127.0.0.1')
  await once(server, 'listening')
  process.on('disconnect', () => process.exit(0))
  process.on('SIGTERM', () => process.exit(0))
  process.send?.({ ready: true, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` })
}

function doing({ transfer }: Baseline): (asked: Transfer) => Promise<{ status: number; refusal?: string }> {
  const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: CONNECTIONS })
  return async (asked) => {
    const client = await pool.connect()
    try {
      return await transfer(client, asked)
    } catch (error) {
      await client.query('ROLLBACK')
      throw error
    } finally {
      client.release()
    }
  }
}

if (import.meta.main) await serve()
