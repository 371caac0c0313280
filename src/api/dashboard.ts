/*
 * The dashboard of the queue, at /dashboard
 *
 * bull-board, for operators: who may `operate` sees the jobs and may retry, promote, pause and resume; who may only `read`
 * sees them. What would lose an accepted transfer or make up one (removing, emptying, changing and adding jobs) is refused
 * to everyone: nothing in the queue is the queue's own to lose.
 */
import type { Queue } from 'bullmq'
import type { Context, Middleware, Next } from 'koa'
import type { TransferQueue } from '../queue.ts'
import { demand } from './access.ts'
import { Problem } from './problem.ts'

const PATH = '/dashboard'

/** Of all queues, of one, of a job. */
const HARMLESS =
  /^\/dashboard\/api\/queues\/(?:(?:pause|resume)|[^/]+\/(?:pause|resume|promote|retry\/failed)|[^/]+\/(?!clean\/)[^/]+\/(?:promote|retry))$/

/**
 * Everything it loads is local. The page names a font elsewhere, which is not fetched, and styles its own placeholder;
 * nobody may frame it, so that no click is led astray.
 */
const POLICY =
  "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; frame-ancestors 'none'"

/**
 * Goes before the body is read: bull-board brings a parser of its own. It is loaded when somebody looks for the first time:
 * an API that nobody looks at starts faster, and 12 MB smaller.
 */
export function dashboard(queue: TransferQueue): Middleware {
  let boards: Promise<Boards> | undefined
  const show: Middleware = async (ctx, next) => {
    ctx.state.route = PATH
    const scope = admit(ctx)
    ctx.set('Content-Security-Policy', POLICY)
    boards ??= createBoards(queue)
    const board = (await boards)[scope]
    await board(ctx, next)
  }
  return (ctx: Context, next: Next) => (ctx.path === PATH || ctx.path.startsWith(`${PATH}/`) ? show(ctx, next) : next())
}

type Boards = { operate: Middleware; read: Middleware }

async function createBoards(queue: TransferQueue): Promise<Boards> {
  const [{ createBullBoard }, { BullMQAdapter }, { KoaAdapter }] = await Promise.all([
    import('@bull-board/api'),
    import('@bull-board/api/bullMQAdapter'),
    import('@bull-board/koa'),
  ])
  const create = (readOnlyMode: boolean): Middleware => {
    const serverAdapter = new KoaAdapter().setBasePath(PATH)
    const adapter = new BullMQAdapter(queue as unknown as Queue, { readOnlyMode })
    createBullBoard({ queues: [adapter], serverAdapter, options: { uiConfig: { boardTitle: 'Transfer' } } })
    return serverAdapter.registerPlugin()
  }
  return { operate: create(false), read: create(true) }
}

/** @returns the scope it is shown with. @throws Problem unauthenticated or forbidden. */
function admit(ctx: Context): 'operate' | 'read' {
  const changes = ctx.method !== 'GET' && ctx.method !== 'HEAD'
  if (changes) refuseElsewhere(ctx)
  try {
    if (changes || may(ctx, 'operate')) {
      demand(ctx, 'operate')
      if (changes && !HARMLESS.test(ctx.path)) {
        throw new Problem(
          'forbidden',
          'the dashboard retries, promotes, pauses and resumes; it loses no accepted transfer',
        )
      }
      return 'operate'
    }
    demand(ctx, 'read')
    return 'read'
  } catch (error) {
    // A browser asks for a name and a password then.
    if (error instanceof Problem && error.type === 'unauthenticated')
      ctx.set('WWW-Authenticate', 'Basic realm="transfer"')
    throw error
  }
}

function may(ctx: Context, scope: 'operate'): boolean {
  return ctx.state.caller?.scopes.has(scope) ?? false
}

/**
 * A page from anywhere may have its reader's browser send requests here, with the reader's password if there is one. A
 * browser says where a request comes from; what is no browser says nothing, and is no danger.
 */
function refuseElsewhere(ctx: Context): void {
  const site = ctx.get('Sec-Fetch-Site')
  const origin = ctx.get('Origin')
  const elsewhere = origin !== '' && (!URL.canParse(origin) || new URL(origin).host !== ctx.host)
  if (elsewhere || (site !== '' && site !== 'same-origin' && site !== 'none')) {
    throw new Problem('forbidden', 'the dashboard takes actions from its own pages only')
  }
}
