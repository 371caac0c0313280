/*
 * Accounts over HTTP
 *
 * Open one, look at it, its balance now, at a past moment or over time, its statement.
 */
import type { Router } from '@koa/router'
import type { DatabasePool } from 'slonik'
import { z } from 'zod'
import { createBatcher, READ_LIMIT } from '../batch.ts'
import { openAccount, readAccounts, readBalanceAt, readBalances, readHistory } from '../db/account.ts'
import { LONG_TAIL } from '../db/closing.ts'
import { readStatement, type StatementCursor, statementCursor } from '../db/transfer.ts'
import { orderClosing, type TransferQueue } from '../queue.ts'
import {
  accountRequest,
  drawId,
  fundingId,
  pastMoment,
  SERVICE_ACCOUNT,
  sameAmount,
  type Transfer,
} from '../transfer.ts'
import { type Caller, demand } from './access.ts'
import { answer } from './answer.ts'
import { readBody } from './body.ts'
import type { Decisions } from './decision.ts'
import { applied, readId, readQuery, readWait, refuseQuery } from './header.ts'
import type { Jobs } from './job.ts'
import type { Owners } from './owner.ts'
import { Problem, parse, reach } from './problem.ts'
import type { Submissions } from './submission.ts'

const PAGE_LIMIT = 100

/** A job costs as much as ten closings. */
const ORDER_DELAY_MS = 200

export type AccountServices = {
  pool: DatabasePool
  queue: TransferQueue
  submissions: Submissions
  decisions: Decisions
  jobs: Jobs
  owners: Owners
}

export function accountRoutes(
  router: Router,
  { pool, queue, submissions, decisions, jobs, owners }: AccountServices,
): void {
  const accounts = createBatcher({
    run: (ids: string[]) => reach('database', readAccounts(pool, ids)),
    size: 1000,
    limit: READ_LIMIT,
  })
  const balances = createBatcher({
    run: (ids: string[]) => reach('database', readBalances(pool, ids)),
    size: 1000,
    limit: READ_LIMIT,
  })

  router.post('/accounts', async (ctx) => {
    const caller = demand(ctx, 'accounts:write')
    refuseQuery(ctx)
    const wait = readWait(ctx)
    const { id = drawId(), balance } = parse(accountRequest, await readBody(ctx))
    // Money out of the service account is new money.
    if (balance !== undefined) demand(ctx, 'operate')
    const created_at = await open(id, balance ?? null, caller)
    const opened = { id, overdraft: false, created_at }
    const headers = ['Location', `/accounts/${id}`]
    if (balance === undefined) {
      answer(ctx, 201, opened, headers)
    } else {
      const funding: Transfer = { id: fundingId(id), source: SERVICE_ACCOUNT, destination: id, amount: balance }
      const job = await submissions.submit([funding], ctx.state.request_id)
      const decision = wait > 0 ? await decisions.wait(funding.id, wait) : null
      if (decision) applied(ctx, wait)
      answer(ctx, 201, { ...opened, funding: decision ?? { ...funding, status: 'queued', job } }, headers)
    }
  })

  /**
   * An outage between the opening of an account and the queueing of its funding must not leave it poor for ever: the
   * same request of the same caller takes up where the first one broke off. Any other request for an open account is refused.
   */
  async function open(id: string, opening: string | null, caller: Caller): Promise<string> {
    const created_at = await reach('database', openAccount(pool, id, opening, caller.name))
    if (created_at !== null) return created_at
    const account = await accounts.push(id)
    const unfinished =
      account !== null &&
      account.owner === caller.name &&
      account.opening !== null &&
      opening !== null &&
      sameAmount(account.opening, opening) &&
      !(await decisions.read(fundingId(id))) &&
      !(await jobs.find(fundingId(id), undefined)) &&
      !(await decisions.read(fundingId(id)))
    if (!unfinished) throw new Problem('account-exists', `account ${id} is open already`)
    return account.created_at
  }

  /** Orders the closing of an account's books, in the background: one job for all that reads find in a while. */
  const longTails = new Set<string>()
  function closeSoon(id: string): void {
    if (longTails.size === 0) setTimeout(order, ORDER_DELAY_MS).unref()
    longTails.add(id)
  }
  function order(): void {
    orderClosing(queue, [...longTails]).catch(() => {}) // the next read finds the same tail
    longTails.clear()
  }

  router.get('/accounts/:id', async (ctx) => {
    const caller = demand(ctx, 'read')
    refuseQuery(ctx)
    const id = readId(ctx, 'account')
    await owners.demand(caller, id)
    const account = await accounts.push(id)
    if (!account) throw unknown(id)
    const { overdraft, created_at } = account
    answer(ctx, 200, { id, overdraft, created_at })
  })

  router.get('/accounts/:id/balance', async (ctx) => {
    const caller = demand(ctx, 'read')
    const id = readId(ctx, 'account')
    await owners.demand(caller, id)
    const { at } = readQuery(ctx, balanceQuery)
    if (at === undefined) {
      const found = await balances.push(id)
      if (!found) throw unknown(id)
      if (found.tail > LONG_TAIL) closeSoon(id)
      answer(ctx, 200, { account: id, balance: found.balance })
      return
    }
    const balance = await reach('database', readBalanceAt(pool, id, at))
    if (balance === null) throw unknown(id, ` at ${at}`)
    answer(ctx, 200, { account: id, balance, at })
  })

  router.get('/accounts/:id/history', async (ctx) => {
    const caller = demand(ctx, 'read')
    const id = readId(ctx, 'account')
    await owners.demand(caller, id)
    const query = readQuery(ctx, historyQuery)
    const account = await accounts.push(id)
    if (!account) throw unknown(id)
    const { from = account.created_at, to = new Date().toISOString(), points } = query
    if (Date.parse(from) > Date.parse(to)) throw new Problem('invalid-request', 'query/from: must be before `to`')
    answer(ctx, 200, { account: id, points: await reach('database', readHistory(pool, { id, from, to, points })) })
  })

  router.get('/accounts/:id/transfers', async (ctx) => {
    const caller = demand(ctx, 'read')
    const id = readId(ctx, 'account')
    await owners.demand(caller, id)
    const { limit, cursor } = readQuery(ctx, statementQuery)
    if (!(await accounts.push(id))) throw unknown(id)
    const { lines, next } = await reach('database', readStatement(pool, id, limit, cursor))
    answer(ctx, 200, { account: id, transfers: lines, next_cursor: next && encode(next) })
  })
}

function unknown(id: string, when = ''): Problem {
  return new Problem('account-not-found', `no account ${id} was open${when}`)
}

const POINTS = 'a whole number from 2 to 500'
const pointCount = z
  .string()
  .regex(/^\d{1,3}$/, { error: POINTS })
  .transform(Number)
  .pipe(z.int().min(2, POINTS).max(500, POINTS))
  .default(100)

export const historyQuery = z.strictObject({
  from: pastMoment.optional(),
  to: pastMoment.optional(),
  points: pointCount,
})

const pageLimit = z
  .string()
  .regex(/^\d{1,3}$/, { error: `a whole number from 1 to ${PAGE_LIMIT}` })
  .transform(Number)
  .pipe(
    z.int().min(1, `a whole number from 1 to ${PAGE_LIMIT}`).max(PAGE_LIMIT, `a whole number from 1 to ${PAGE_LIMIT}`),
  )
  .default(20)

/** Opaque to clients: the base64url of where the next page goes on. */
const pageCursor = z.string().transform((text, context): StatementCursor => {
  try {
    return statementCursor.parse(JSON.parse(Buffer.from(text, 'base64url').toString()))
  } catch {
    context.addIssue({ code: 'custom', message: 'the next_cursor of an earlier page, unchanged' })
    return z.NEVER
  }
})

export const balanceQuery = z.strictObject({ at: pastMoment.optional() })
export const statementQuery = z.strictObject({ limit: pageLimit, cursor: pageCursor.optional() })

function encode(cursor: StatementCursor): string {
  return Buffer.from(JSON.stringify(cursor)).toString('base64url')
}
